/* The out-queue of a pipe against a naive one: a list of frames. */
#include "../src/outbox.h"
#include "test.h"

#include <stdlib.h>

enum { FRAMES = 4000, LONGEST = 60, PARTS = 5 };

static uint32_t state = 3;
static uint32_t some(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

typedef struct frame {
    uint64_t start;
    uint32_t len;
    char text[LONGEST];
    bool withdrawn;
    uint32_t written; /* of its bytes */
} frame;

static frame *frames;
static uint32_t count, first; /* frames before first are written or withdrawn */

static void append(abk_outbox *out)
{
    frame *next = &frames[count++];
    *next = (frame){.start = abk_outbox_end(out), .len = 1 + some(LONGEST)};
    for (uint32_t i = 0; i < next->len; i++)
        next->text[i] = (char)('a' + some(26));
    CHECK(abk_buf_append(&out->buf, next->text, next->len) == ABK_OK);
}

static void withdraw(abk_outbox *out)
{
    if (first == count)
        return;
    frame *at = &frames[first + some(count - first)];
    CHECK(abk_outbox_wrote(out, at->start) == (at->written > 0 || at->withdrawn ? true : false) ||
          at->withdrawn);
    if (at->withdrawn || at->written > 0)
        return;
    CHECK(abk_outbox_withdraw(out, at->start, at->len) == ABK_OK);
    at->withdrawn = true;
}

/* Write some of what is to be written next, and see that it is what the frames say. */
static void write_some(abk_outbox *out, bool all)
{
    struct iovec parts[PARTS];
    const int got = abk_outbox_parts(out, parts, PARTS);
    size_t offered = 0;
    for (int i = 0; i < got; i++) {
        CHECK(parts[i].iov_len > 0);
        offered += parts[i].iov_len;
    }
    const size_t take = all ? offered : some((uint32_t)offered + 1);
    size_t left = take;
    for (int i = 0; i < got; i++) {
        const char *at = parts[i].iov_base;
        for (size_t k = 0; k < parts[i].iov_len && left > 0; k++, left--) {
            while (first < count &&
                   (frames[first].withdrawn || frames[first].written == frames[first].len))
                first++;
            CHECK(first < count && at[k] == frames[first].text[frames[first].written]);
            if (first < count)
                frames[first].written++;
        }
    }
    abk_outbox_wrote_bytes(out, take);
    while (first < count && (frames[first].withdrawn || frames[first].written == frames[first].len))
        first++;
}

static void check_size(const abk_outbox *out)
{
    uint64_t left = 0;
    for (uint32_t i = first; i < count; i++)
        left += frames[i].withdrawn ? 0 : frames[i].len - frames[i].written;
    CHECK(abk_outbox_size(out) == left);
    struct iovec part;
    CHECK((abk_outbox_parts(out, &part, 1) == 0) == (left == 0));
}

static void it_writes_what_was_not_withdrawn_in_order(void)
{
    for (uint32_t round = 0; round < 30; round++) {
        abk_outbox out = {0};
        count = first = 0;
        while (count < FRAMES) {
            const uint32_t what = some(10);
            if (what < 4)
                append(&out);
            else if (what < 4 + round % 5)
                withdraw(&out);
            else
                write_some(&out, false);
            check_size(&out);
        }
        while (abk_outbox_size(&out) > 0)
            write_some(&out, true);
        for (uint32_t i = 0; i < count; i++)
            CHECK(frames[i].withdrawn ? frames[i].written == 0
                                      : frames[i].written == frames[i].len);
        CHECK(out.hole_count == 0 && abk_buf_len(&out.buf) == 0);
        abk_outbox_free(&out);
    }
}

static void holes_side_by_side_are_one(void)
{
    abk_outbox out = {0};
    struct iovec parts[4];
    CHECK(abk_buf_append(&out.buf, "aabbccddee", 10) == ABK_OK);
    CHECK(abk_outbox_withdraw(&out, 2, 2) == ABK_OK && abk_outbox_withdraw(&out, 6, 2) == ABK_OK);
    CHECK(out.hole_count == 2 && abk_outbox_size(&out) == 6);
    CHECK(abk_outbox_withdraw(&out, 4, 2) == ABK_OK && out.hole_count == 1);
    CHECK(abk_outbox_parts(&out, parts, 4) == 2 && parts[1].iov_len == 2);
    CHECK(memcmp(parts[1].iov_base, "ee", 2) == 0);
    CHECK(abk_outbox_withdraw(&out, 0, 2) == ABK_OK && out.hole_count == 0);
    CHECK(abk_outbox_withdraw(&out, 8, 2) == ABK_OK && abk_outbox_size(&out) == 0);
    CHECK(abk_outbox_parts(&out, parts, 4) == 0 && abk_outbox_end(&out) == 10);
    abk_outbox_free(&out);
}

static void without_memory_a_frame_stays_in(void)
{
    abk_outbox out = {0};
    CHECK(abk_buf_append(&out.buf, "aabb", 4) == ABK_OK);
    abk_test.allocations = 0;
    abk_test.fail_alloc_at = 1;
    CHECK(abk_outbox_withdraw(&out, 2, 2) == ABK_ENOMEM);
    abk_test.fail_alloc_at = 0;
    CHECK(abk_outbox_size(&out) == 4 && out.hole_count == 0);
    CHECK(abk_outbox_withdraw(&out, 2, 2) == ABK_OK);
    abk_outbox_clear(&out);
    CHECK(abk_outbox_size(&out) == 0 && abk_outbox_end(&out) == 4);
    abk_outbox_free(&out);
}

static void all_of_it(void)
{
    frames = calloc(FRAMES + 1, sizeof *frames);
    CHECK(frames != NULL);
    it_writes_what_was_not_withdrawn_in_order();
    free(frames);
}

TEST_MAIN(TEST(all_of_it), TEST(holes_side_by_side_are_one), TEST(without_memory_a_frame_stays_in))
