/* Bytes in one piece against a plain array; JSON text; UTF-8. */
#include "../src/buf.h"
#include "test.h"

#include <stdlib.h>

enum { MOST = 20000, STEPS = 20000 };

static uint32_t state = 1;
static uint32_t some(uint32_t below)
{
    state = state * 1664525u + 1013904223u;
    return (state >> 8) % below;
}

static void it_is_a_queue_of_bytes(void)
{
    static char model[MOST], chunk[MOST];
    size_t len = 0;
    uint64_t gone = 0;
    abk_buf buf = {0};
    for (int i = 0; i < STEPS; i++) {
        const uint32_t what = some(10);
        if (what < 5) {
            const size_t more =
                some((uint32_t)(MOST - len) < 600 ? (uint32_t)(MOST - len) + 1 : 600);
            for (size_t k = 0; k < more; k++)
                chunk[k] = (char)some(256);
            CHECK(abk_buf_append(&buf, more == 0 ? NULL : chunk, more) == ABK_OK);
            if (more > 0)
                memcpy(model + len, chunk, more);
            len += more;
        } else if (what < 9) {
            const size_t less = some((uint32_t)len + 1);
            abk_buf_drop(&buf, less);
            memmove(model, model + less, len - less);
            len -= less;
            gone += less;
        } else if (some(2) == 0) {
            abk_buf_settle(&buf, some(1000));
        } else {
            CHECK(abk_buf_reserve(&buf, some(3000)) == ABK_OK);
        }
        CHECK(abk_buf_len(&buf) == len && buf.base == gone);
        CHECK(len == 0 || memcmp(abk_buf_at(&buf), model, len) == 0);
    }
    abk_buf_free(&buf);
}

static void it_gives_memory_back_that_is_not_needed(void)
{
    abk_buf buf = {0};
    CHECK(abk_buf_reserve(&buf, 1 << 20) == ABK_OK && abk_buf_append(&buf, "abc", 3) == ABK_OK);
    abk_buf_settle(&buf, 0);
    CHECK(buf.cap <= 512 && memcmp(abk_buf_at(&buf), "abc", 3) == 0);
    abk_buf_clear(&buf);
    CHECK(abk_buf_reserve(&buf, 1 << 20) == ABK_OK);
    abk_buf_settle(&buf, 0); /* there were three bytes since the last one */
    CHECK(buf.cap == 512);
    CHECK(abk_buf_reserve(&buf, 1 << 20) == ABK_OK);
    abk_buf_settle(&buf, 0);
    CHECK(buf.cap == 0 && buf.data == NULL && buf.base == 3);
    CHECK(abk_buf_append(&buf, "de", 2) == ABK_OK && memcmp(abk_buf_at(&buf), "de", 2) == 0);
    abk_buf_free(&buf);
}

static void a_trickle_does_not_grow_it(void)
{
    abk_buf buf = {0};
    for (int i = 0; i < 100000; i++) {
        abk_buf_append(&buf, "0123456789", 10);
        if (i > 10)
            abk_buf_drop(&buf, 10);
    }
    CHECK(buf.cap <= 1024);
    abk_buf_free(&buf);
}

static void without_memory_all_stays_as_it_was(void)
{
    abk_buf buf = {0};
    CHECK(abk_buf_append(&buf, "abc", 3) == ABK_OK);
    abk_test.fail_alloc_at = 1;
    CHECK(abk_buf_reserve(&buf, 1 << 20) == ABK_ENOMEM && !buf.failed);
    CHECK(abk_buf_append(&buf, "x", 1) == ABK_OK); /* there was room */
    char *much = calloc(1, 1 << 16);
    CHECK(abk_buf_append(&buf, much, 1 << 16) == ABK_ENOMEM && buf.failed);
    free(much);
    abk_out(&buf, "nothing");
    abk_out_string(&buf, "nothing", 7);
    abk_out_format(&buf, "%d", 5);
    CHECK(abk_buf_len(&buf) == 4 && memcmp(abk_buf_at(&buf), "abcx", 4) == 0);
    abk_buf_settle(&buf, 0);
    abk_test.fail_alloc_at = 0;
    abk_buf_clear(&buf);
    CHECK(!buf.failed);
    abk_out(&buf, "again");
    CHECK(abk_buf_len(&buf) == 5);
    abk_buf_free(&buf);
}

/* --- JSON ------------------------------------------------------------------------------------ */

static const char *quoted(const char *at, size_t len)
{
    static char text[4096];
    abk_buf buf = {0};
    abk_out_string(&buf, at, len);
    snprintf(text, sizeof text, "%.*s", (int)abk_buf_len(&buf), abk_buf_at(&buf));
    abk_buf_free(&buf);
    return text;
}
#define QUOTED(literal) quoted(literal, sizeof(literal) - 1)

static void strings_are_escaped(void)
{
    CHECK_TEXT(QUOTED(""), "\"\"");
    CHECK_TEXT(quoted(NULL, 0), "\"\"");
    CHECK_TEXT(QUOTED("plain"), "\"plain\"");
    CHECK_TEXT(QUOTED("\"\\/\n\t\r\b\x01\x7f"), "\"\\\"\\\\/\\n\\t\\u000d\\u0008\\u0001\x7f\"");
    CHECK_TEXT(QUOTED("a\0b"), "\"a\\u0000b\"");
    CHECK_TEXT(QUOTED("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
               "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"");
    CHECK_TEXT(QUOTED("a\xff"
                      "b\xc3"),
               "\"a\\\\xffb\\\\xc3\"");
    CHECK_TEXT(QUOTED("\xed\xa0\x80"), "\"\\\\xed\\\\xa0\\\\x80\"");
}

static void members_have_commas_between_them(void)
{
    abk_buf buf = {0};
    abk_out(&buf, "{");
    abk_out_member(&buf, "a", "x\"");
    abk_out_member(&buf, "b", NULL);
    abk_out_number(&buf, "c", INT64_MIN);
    abk_out(&buf, ",\"d\":{");
    abk_out_number(&buf, "e", INT64_MAX);
    abk_out(&buf, "}}");
    CHECK(abk_buf_append(&buf, "", 1) == ABK_OK);
    CHECK_TEXT(abk_buf_at(&buf), "{\"a\":\"x\\\"\",\"b\":null,\"c\":-9223372036854775808,"
                                 "\"d\":{\"e\":9223372036854775807}}");
    abk_buf_free(&buf);
}

static void a_long_format_is_cut(void)
{
    static char text[2000];
    abk_buf buf = {0};
    memset(text, 'x', sizeof text - 1);
    abk_out_format(&buf, "%s", text);
    CHECK(abk_buf_len(&buf) == 511);
    abk_buf_free(&buf);
}

/* --- UTF-8 ----------------------------------------------------------------------------------- */

/* As RFC 3629 has it: by decoding. */
static bool is_utf8(const unsigned char *at, size_t len)
{
    for (size_t i = 0; i < len;) {
        const size_t more = at[i] < 0x80 ? 0 : at[i] >> 5 == 6 ? 1 : at[i] >> 4 == 14 ? 2 : 3;
        if (at[i] >= 0x80 && (at[i] < 0xc0 || at[i] >= 0xf8))
            return false;
        static const uint32_t mask[] = {0x7f, 0x1f, 0x0f, 0x07},
                              least[] = {0, 0x80, 0x800, 0x10000};
        uint32_t code = at[i] & mask[more];
        if (len - i <= more)
            return false;
        for (size_t k = 1; k <= more; k++) {
            if (at[i + k] >> 6 != 2)
                return false;
            code = code << 6 | (at[i + k] & 0x3f);
        }
        if (code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
            return false;
        i += more + 1;
    }
    return true;
}

static void every_short_text_is_judged_as_the_standard_does(void)
{
    static const unsigned char edges[] = {0,    0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0,
                                          0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
                                          0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xf8, 0xff};
    const size_t count = sizeof edges;
    for (size_t i = 0; i < count * count * count * count; i++) {
        const unsigned char text[4] = {edges[i % count], edges[i / count % count],
                                       edges[i / count / count % count],
                                       edges[i / count / count / count]};
        for (size_t len = 0; len <= 4; len++) {
            char *exact = malloc(len == 0 ? 1 : len);
            if (exact == NULL)
                abort();
            memcpy(exact, text, len);
            if (i % 7 == 0 || len == 4)
                CHECK(abk_is_utf8(exact, len) == is_utf8(text, len));
            free(exact);
        }
    }
}

TEST_MAIN(TEST(it_is_a_queue_of_bytes), TEST(it_gives_memory_back_that_is_not_needed),
          TEST(a_trickle_does_not_grow_it), TEST(without_memory_all_stays_as_it_was),
          TEST(strings_are_escaped), TEST(members_have_commas_between_them),
          TEST(a_long_format_is_cut), TEST(every_short_text_is_judged_as_the_standard_does))
