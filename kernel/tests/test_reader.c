/* Any cut of a stream gives the same lines, long ones included, and no more is held than must be.
 * As tests/sansio/test_lines.py has it for the splitter in Python. */
#include "../src/reader.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <unistd.h>

enum { MOST = 64 * 1024, BUDGET = 1024 * 1024 };

static uint32_t state = 7;
static uint32_t some(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

/* --- what must be found: all of the stream at hand -------------------------------------------- */

static char stream[MOST];
static size_t stream_len, stream_at;

/* Check that this is the next line of the stream. */
static void expect(const abk_line *line, size_t max)
{
    const char *at = stream + stream_at;
    const char *end = memchr(at, '\n', stream_len - stream_at);
    CHECK(end != NULL);
    if (end == NULL)
        return;
    const size_t size = (size_t)(end - at) + 1;
    CHECK(line->size == size && line->oversize == (size > max));
    const size_t edge = size < ABK_EDGE_BYTES ? size : ABK_EDGE_BYTES;
    if (size <= max) {
        CHECK(line->len == size && memcmp(line->at, at, size) == 0);
    } else {
        CHECK(line->len == edge && memcmp(line->at, at, edge) == 0);
        CHECK(line->suffix.len == edge && memcmp(line->suffix.at, at + size - edge, edge) == 0);
    }
    stream_at += size;
}

static void expect_rest(const abk_reader *reader, size_t max)
{
    uint64_t size = 0;
    const abk_text rest = abk_reader_rest(reader, &size);
    const size_t left = stream_len - stream_at;
    CHECK(size == left && memchr(stream + stream_at, '\n', left) == NULL);
    const size_t most = left >= max && left > ABK_EDGE_BYTES ? ABK_EDGE_BYTES : left;
    CHECK(rest.len == most && (most == 0 || memcmp(rest.at, stream + stream_at, most) == 0));
}

/* Feed the stream through a pipe in chunks of these sizes, 0: of any. */
static void feed(size_t max, size_t chunk)
{
    abk_reader reader = {0};
    int fds[2];
    CHECK(pipe(fds) == 0);
    fcntl(fds[0], F_SETFL, O_NONBLOCK);
    stream_at = 0;
    for (size_t fed = 0; fed < stream_len;) {
        const size_t left = stream_len - fed;
        const size_t want = chunk > 0 ? chunk : 1 + some(some(2) == 0 ? 8 : 9000);
        const size_t size = want < left ? want : left;
        CHECK(write(fds[1], stream + fed, size) == (ssize_t)size);
        fed += size;
        for (ssize_t got = 1; got > 0;) {
            got = abk_reader_fill(&reader, fds[0], 1 + some(64), BUDGET);
            CHECK(got > 0 || got == -EAGAIN);
            for (abk_line line; got > 0 && abk_reader_next(&reader, max, &line);)
                expect(&line, max);
        }
        if (some(10) == 0)
            abk_reader_settle(&reader, 0);
    }
    expect_rest(&reader, max);
    close(fds[1]);
    CHECK(abk_reader_fill(&reader, fds[0], 10, BUDGET) == 0);
    expect_rest(&reader, max);
    close(fds[0]);
    abk_reader_free(&reader);
}

static void any_cut_of_a_stream_gives_the_same_lines(void)
{
    for (int round = 0; round < 300; round++) {
        stream_len = some(200);
        for (size_t i = 0; i < stream_len; i++)
            stream[i] = some(4) == 0 ? '\n' : (char)('a' + some(3));
        const size_t max = 1 + some(8);
        feed(max, 1);
        feed(max, 0);
        feed(max, MOST);
    }
}

static void any_cut_of_long_lines_gives_the_same_lines(void)
{
    for (int round = 0; round < 60; round++) {
        stream_len = 0;
        while (stream_len < MOST - 3 * ABK_EDGE_BYTES - 1 && some(8) != 0) {
            const size_t size = 1 + some(some(2) == 0 ? 20 : 3 * ABK_EDGE_BYTES);
            for (size_t i = 0; i < size; i++)
                stream[stream_len++] = (char)('a' + some(26));
            if (some(5) != 0)
                stream[stream_len++] = '\n';
        }
        const size_t max = 1 + some(3 * ABK_EDGE_BYTES);
        feed(max, 0);
        feed(max, 60000);
    }
}

static void a_line_as_long_as_the_limit_passes_and_one_byte_more_does_not(void)
{
    for (size_t max = 1; max < 6; max++) {
        for (size_t size = 1; size < 8; size++) {
            memset(stream, 'x', size);
            stream[size - 1] = '\n';
            memcpy(stream + size, "y\n", 2);
            stream_len = size + 2;
            feed(max, 1);
            feed(max, stream_len);
        }
    }
}

/* --- memory ---------------------------------------------------------------------------------- */

static void the_longest_line_is_held_and_little_more(void)
{
    enum { LIMIT = 256 * 1024 };
    static char chunk[4096];
    abk_reader reader = {0};
    abk_line line;
    int fds[2];
    size_t most = 0;
    CHECK(pipe(fds) == 0);
    memset(chunk, 'x', sizeof chunk);
    for (int i = 0; i < 2000; i++) { /* 8 MB without a newline, then one with */
        CHECK(write(fds[1], chunk, sizeof chunk) == sizeof chunk);
        CHECK(abk_reader_fill(&reader, fds[0], 4096, BUDGET) == sizeof chunk);
        CHECK(!abk_reader_next(&reader, LIMIT, &line));
        most = reader.buf.cap > most ? reader.buf.cap : most;
    }
    CHECK(most <= 2 * LIMIT);
    CHECK(write(fds[1], "\nshort\n", 7) == 7 &&
          abk_reader_fill(&reader, fds[0], 4096, BUDGET) == 7);
    CHECK(abk_reader_next(&reader, LIMIT, &line) && line.oversize);
    CHECK(line.size == 2000 * sizeof chunk + 1 && line.suffix.at[line.suffix.len - 1] == '\n');
    CHECK(abk_reader_next(&reader, LIMIT, &line) && line.len == 6 && !line.oversize);
    abk_reader_settle(&reader, 0);
    abk_reader_settle(&reader, 0);
    CHECK(reader.buf.cap <= 4096);
    close(fds[0]);
    close(fds[1]);
    abk_reader_free(&reader);
}

static void without_memory_a_long_line_has_no_edges(void)
{
    abk_reader reader = {0};
    abk_line line;
    int fds[2];
    CHECK(pipe(fds) == 0);
    CHECK(write(fds[1], "0123456789\nab\n", 14) == 14);
    CHECK(abk_reader_fill(&reader, fds[0], 64, BUDGET) == 14);
    abk_test.allocations = 0;
    abk_test.fail_alloc_at = 1;
    CHECK(abk_reader_next(&reader, 5, &line) && line.oversize && line.len == 0 && line.size == 11);
    CHECK(abk_reader_next(&reader, 5, &line) && line.len == 3);
    abk_reader none = {0};
    CHECK(abk_reader_fill(&none, fds[0], 64, BUDGET) == -ENOMEM);
    abk_test.fail_alloc_at = 0;
    close(fds[0]);
    close(fds[1]);
    abk_reader_free(&reader);
}

static int fault;
static int before(const char *name, int fd)
{
    (void)name;
    (void)fd;
    return fault;
}

static void errors_of_a_read_are_handed_on(void)
{
    static const int all[] = {EINTR, EAGAIN, EIO};
    abk_reader reader = {0};
    abk_test.before = before;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        fault = -all[i];
        CHECK(abk_reader_fill(&reader, 0, 64, BUDGET) == -all[i]);
        CHECK(abk_buf_len(&reader.buf) == 0);
    }
    abk_test.before = NULL;
    abk_reader_free(&reader);
}

TEST_MAIN(TEST(any_cut_of_a_stream_gives_the_same_lines),
          TEST(any_cut_of_long_lines_gives_the_same_lines),
          TEST(a_line_as_long_as_the_limit_passes_and_one_byte_more_does_not),
          TEST(the_longest_line_is_held_and_little_more),
          TEST(without_memory_a_long_line_has_no_edges), TEST(errors_of_a_read_are_handed_on))
