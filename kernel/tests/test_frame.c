/* Lines with bytes replaced on the way through, against a naive replacement. */
#include "../src/bus.h"
#include "test.h"

#include <stdlib.h>

static uint32_t state = 11;
static uint32_t some(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

static const char *put(const abk_frame *frame, int64_t key)
{
    static char text[4096];
    const size_t most = abk_frame_most(frame);
    char *exact = malloc(most);
    if (exact == NULL)
        abort();
    const size_t len = abk_frame_put(frame, key, exact);
    CHECK(len <= most);
    snprintf(text, sizeof text, "%.*s", (int)len, exact);
    free(exact);
    return text;
}

static abk_text part(const abk_frame *frame, size_t from, size_t len)
{
    return (abk_text){frame->line.at + from, (uint32_t)len};
}

static void a_line_without_patches_is_itself(void)
{
    const abk_frame frame = {.line = ABK_TEXT("{\"id\":1}\n")};
    CHECK_TEXT(put(&frame, 5), "{\"id\":1}\n");
}

static void patches_may_come_in_any_order(void)
{
    abk_frame frame = {.line = ABK_TEXT("0123456789")};
    abk_frame_patch(&frame, part(&frame, 8, 1), ABK_TEXT("long"), false);
    abk_frame_patch(&frame, part(&frame, 0, 2), (abk_text){0}, false);
    abk_frame_patch(&frame, part(&frame, 4, 1), (abk_text){0}, true);
    abk_frame_patch(&frame, part(&frame, 9, 1), ABK_TEXT(""), false);
    CHECK_TEXT(put(&frame, 42), "2342567long");
}

static void keys_of_every_length_are_written(void)
{
    char want[32];
    for (int64_t key = 1; key < INT64_MAX / 10; key *= 10) {
        for (int64_t near = -1; near <= 1; near++) {
            abk_frame frame = {.line = ABK_TEXT("<?>")};
            abk_frame_patch(&frame, part(&frame, 1, 1), (abk_text){0}, true);
            snprintf(want, sizeof want, "<%lld>", (long long)(key + near));
            CHECK_TEXT(put(&frame, key + near), want);
        }
    }
    abk_frame frame = {.line = ABK_TEXT("?")};
    abk_frame_patch(&frame, frame.line, (abk_text){0}, true);
    CHECK_TEXT(put(&frame, INT64_MAX), "9223372036854775807");
}

/* A progress token may stand within what is left out. */
static void what_stands_in_something_replaced_goes_with_it(void)
{
    abk_frame frame = {.line = ABK_TEXT("abcdefgh")};
    abk_frame_patch(&frame, part(&frame, 3, 1), ABK_TEXT("X"), false);
    abk_frame_patch(&frame, part(&frame, 2, 4), ABK_TEXT("-"), false);
    CHECK_TEXT(put(&frame, 1), "ab-gh");
}

static void more_patches_than_there_is_room_for_are_left_out(void)
{
    abk_frame frame = {.line = ABK_TEXT("0123456789")};
    for (size_t i = 0; i < 10; i++)
        abk_frame_patch(&frame, part(&frame, i, 1), ABK_TEXT("x"), false);
    CHECK(frame.count == ABK_MAX_PATCHES);
    CHECK_TEXT(put(&frame, 1), "xxxxxxxx89");
}

static void any_patches_do_what_replacing_does(void)
{
    static const char text[] = "abcdefghijklmnopqrstuvwxyz0123456789";
    for (int round = 0; round < 20000; round++) {
        abk_frame frame = {.line = ABK_TEXT("abcdefghijklmnopqrstuvwxyz0123456789")};
        char want[256] = "";
        size_t at = 0, from[4], len[4];
        const char *with[4];
        uint32_t order[4] = {0, 1, 2, 3};
        for (uint32_t i = 0; i < 4; i++) { /* apart from each other, in order */
            const size_t gap = some(5);
            strncat(want, text + at, gap);
            at += gap;
            from[i] = at;
            len[i] = some(4);
            with[i] = some(2) == 0 ? "" : "<new>";
            strcat(want, with[i]);
            at += len[i];
        }
        strcat(want, text + at);
        for (uint32_t i = 3; i > 0;
             i--) { /* handed over in any order, but where two begin as one */
            const uint32_t k = some(i + 1), swap = order[i];
            if (len[i] > 0 && len[k] > 0) {
                order[i] = order[k];
                order[k] = swap;
            }
        }
        bool same = false;
        for (uint32_t i = 0; i < 4; i++) {
            same = same || len[i] == 0;
            abk_frame_patch(&frame, part(&frame, from[order[i]], len[order[i]]),
                            (abk_text){with[order[i]], (uint32_t)strlen(with[order[i]])}, false);
        }
        if (!same)
            CHECK_TEXT(put(&frame, 1), want);
    }
}

TEST_MAIN(TEST(a_line_without_patches_is_itself), TEST(patches_may_come_in_any_order),
          TEST(keys_of_every_length_are_written),
          TEST(what_stands_in_something_replaced_goes_with_it),
          TEST(more_patches_than_there_is_room_for_are_left_out),
          TEST(any_patches_do_what_replacing_does))
