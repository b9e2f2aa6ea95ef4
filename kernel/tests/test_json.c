/* JSON documents: what is one, what it says, where the first fault of another one stands. */
#include "test.h"

#include "../src/json.h"

#include <locale.h>
#include <stdlib.h>
#include <unistd.h>

/* Read it from memory that ends where the document ends. */
static abk_json *read_bytes(abk_arena *arena, const char *at, size_t len, abk_error *error)
{
    char *copy = malloc(len == 0 ? 1 : len);
    if (copy == NULL)
        abort();
    memcpy(copy, at, len);
    abk_json *value = abk_json_read(arena, copy, len, error);
    free(copy);
    return value;
}

static abk_json *read_text(abk_arena *arena, const char *text, abk_error *error)
{
    return read_bytes(arena, text, strlen(text), error);
}

/* --- strictness ------------------------------------------------------------------------------- */

static void test_good(void)
{
    static const char *const good[] = {"null",
                                       "true",
                                       "false",
                                       "0",
                                       "-0",
                                       "1",
                                       "-1",
                                       "10",
                                       "1.5",
                                       "-0.25",
                                       "1e5",
                                       "1E+5",
                                       "1e-5",
                                       "0.0",
                                       "0e0",
                                       "1e308",
                                       "1e-999",
                                       "123456789012345678901234567890",
                                       "\"\"",
                                       "\"a\"",
                                       "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                       "\"\\u0041\"",
                                       "\"\\u0000\"",
                                       "\"\\ud83d\\ude00\"",
                                       "\"\xc3\xa9\"",
                                       "\"\xf0\x9f\x98\x80\"",
                                       "\"\x7f\"",
                                       "[]",
                                       "[1]",
                                       "[1,2]",
                                       "[[],{}]",
                                       "{}",
                                       "{\"a\":1}",
                                       "{\"a\":{\"a\":1},\"b\":[{\"a\":1}]}",
                                       " \t\r\n{ \"a\" : [ 1 , 2 ] } \n",
                                       "{\"\":0}",
                                       "{\"a\":1,\"A\":1}",
                                       "{\"a\":1,\"a\\u0000\":2}"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        abk_error error = {0};
        abk_arena *arena = abk_arena_new();
        if (read_text(arena, good[i], &error) == NULL) {
            fprintf(stderr, "%s: refused: %s\n", good[i], error.text);
            test_failures++;
        }
        abk_arena_free(arena);
    }
}

static const struct {
    const char *text;
    const char *what;
    int line, column;
} bad[] = {
    {"", "expected a value", 1, 1},
    {" \n ", "expected a value", 2, 2},
    {"nul", "expected a value", 1, 1},
    {"nulL", "expected a value", 1, 1},
    {"True", "expected a value", 1, 1},
    {"NaN", "expected a value", 1, 1},
    {"Infinity", "expected a value", 1, 1},
    {"\xef\xbb\xbf{}", "expected a value", 1, 1},
    {"'a'", "expected a value", 1, 1},
    {"//a\n1", "expected a value", 1, 1},
    {"+1", "expected a value", 1, 1},
    {".5", "expected a value", 1, 1},
    {"01", "a number that is none", 1, 1},
    {"-", "a number that is none", 1, 1},
    {"-a", "a number that is none", 1, 1},
    {"-01", "a number that is none", 1, 1},
    {"1.", "a number that is none", 1, 1},
    {"1.e5", "a number that is none", 1, 1},
    {"1e", "a number that is none", 1, 1},
    {"1e+", "a number that is none", 1, 1},
    {"-Infinity", "a number that is none", 1, 1},
    {"[1e400]", "a number that is out of range", 1, 2},
    {"[-1e400]", "a number that is out of range", 1, 2},
    {"1234567890123456789012345678901234567890123456789012345678901234",
     "a number with too many digits", 1, 1},
    {"0x10", "something follows the document", 1, 2},
    {"1 2", "something follows the document", 1, 3},
    {"{}\n\n }", "something follows the document", 3, 2},
    {"\"", "a string without its end", 1, 2},
    {"\"a", "a string without its end", 1, 2},
    {"\"\\", "a string without its end", 1, 2},
    {"\"\\\"", "a string without its end", 1, 2},
    {"\"\\u", "a string without its end", 1, 2},
    {"\"a\tb\"", "a control character in a string", 1, 3},
    {"[\n\"a\nb\"]", "a control character in a string", 2, 3},
    {"\"\\q\"", "an escape that is none", 1, 2},
    {"\"a\\'\"", "an escape that is none", 1, 3},
    {"\"\\x41\"", "an escape that is none", 1, 2},
    {"\"\\u12\"", "\\u needs four hexadecimal digits", 1, 4},
    {"\"\\u12g4\"", "\\u needs four hexadecimal digits", 1, 4},
    {"\"\\u+123\"", "\\u needs four hexadecimal digits", 1, 4},
    {"\"\\ud800\"", "half of a surrogate pair", 1, 8},
    {"\"\\ud800\\u0041\"", "half of a surrogate pair", 1, 8},
    {"\"\\ud800\\ud800\"", "half of a surrogate pair", 1, 8},
    {"\"\\ud83d\\u12\"", "half of a surrogate pair", 1, 8},
    {"\"\\udc7f\"", "half of a surrogate pair", 1, 8},
    {"\"\\udd00\"", "half of a surrogate pair", 1, 8},
    {"\"\\udfff\"", "half of a surrogate pair", 1, 8},
    {"\"\xff\"", "a string that is not UTF-8", 1, 2},
    {"\"\xc3\"", "a string that is not UTF-8", 1, 2},
    {"\"\xed\xa0\x80\"", "a string that is not UTF-8", 1, 2},
    {"\"\xc0\x80\"", "a string that is not UTF-8", 1, 2},
    {"\"\xff\\udc80\"", "a string that is not UTF-8", 1, 2},
    {"\"\xf4\x90\x80\x80\"", "a string that is not UTF-8", 1, 2},
    {"[", "expected a value", 1, 2},
    {"[1", "expected ',' or ']'", 1, 3},
    {"[1,]", "expected a value", 1, 4},
    {"[,1]", "expected a value", 1, 2},
    {"[1 2]", "expected ',' or ']'", 1, 4},
    {"[1}", "expected ',' or ']'", 1, 3},
    {"{", "expected a name in quotes", 1, 2},
    {"{1:2}", "expected a name in quotes", 1, 2},
    {"{a:2}", "expected a name in quotes", 1, 2},
    {"{\"a\":1,}", "expected a name in quotes", 1, 8},
    {"{\"a\"}", "expected ':'", 1, 5},
    {"{\"a\" 1}", "expected ':'", 1, 6},
    {"{\"a\":}", "expected a value", 1, 6},
    {"{\"a\":1 \"b\":2}", "expected ',' or '}'", 1, 8},
    {"{\"a\":1]", "expected ',' or '}'", 1, 7},
    {"{\"a\":1", "expected ',' or '}'", 1, 7},
    {"{\"a\":1,\n\"a\":2}", "the member 'a' stands there twice", 2, 5},
    {"{\"a\":1,\"\\u0061\":2}", "the member 'a' stands there twice", 1, 17},
    {"[{\"b\":{\"\":1,\"\":2}}]", "the member '' stands there twice", 1, 16},
};

static void test_bad(void)
{
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        abk_error error = {0};
        char want[256];
        abk_arena *arena = abk_arena_new();
        snprintf(want, sizeof want, "not valid JSON: %s (line %d, column %d)", bad[i].what,
                 bad[i].line, bad[i].column);
        const abk_json *value = read_text(arena, bad[i].text, &error);
        if (value != NULL || error.code != ABK_EINVAL || strcmp(error.text, want) != 0) {
            fprintf(stderr, "%s:\n  got  %s\n  want %s\n", bad[i].text,
                    value != NULL ? "it is taken" : error.text, want);
            test_failures++;
        }
        abk_arena_free(arena);
    }
}

static void test_nul_bytes(void)
{
    static const char *const texts[] = {"\0",   "1\0",  "\"\0\"",     "\"\\\0\"",
                                        "[\0]", "{\0}", "{\"a\"\0:1}"};
    static const size_t lens[] = {1, 2, 3, 4, 3, 3, 7};
    for (size_t i = 0; i < sizeof lens / sizeof *lens; i++) {
        abk_error error = {0};
        abk_arena *arena = abk_arena_new();
        CHECK(read_bytes(arena, texts[i], lens[i], &error) == NULL && error.code == ABK_EINVAL);
        abk_arena_free(arena);
    }
    abk_error error = {0};
    abk_arena *arena = abk_arena_new();
    CHECK(abk_json_read(arena, NULL, 0, &error) == NULL);
    abk_arena_free(arena);
}

/* Each start of a document is none, and reads nothing behind its end. */
static void test_prefixes(void)
{
    static const char text[] =
        "{\"a\":[true,null,-0.5e+1,\"\\ud83d\\ude00\\n\xc3\xa9\"],\"b\":{\"c\":false}}";
    for (size_t len = 0; len < sizeof text - 1; len++) {
        abk_error error = {0};
        abk_arena *arena = abk_arena_new();
        CHECK(read_bytes(arena, text, len, &error) == NULL && error.code == ABK_EINVAL);
        abk_arena_free(arena);
    }
}

static void test_depth(void)
{
    for (int depth = ABK_JSON_DEPTH - 1; depth <= ABK_JSON_DEPTH + 1; depth++) {
        char text[1024] = "";
        for (int i = 0; i < depth; i++)
            strcat(text, i % 2 == 0 ? "[" : "{\"a\":");
        strcat(text, "1");
        for (int i = depth - 1; i >= 0; i--)
            strcat(text, i % 2 == 0 ? "]" : "}");
        abk_error error = {0};
        abk_arena *arena = abk_arena_new();
        const abk_json *value = read_text(arena, text, &error);
        CHECK((value != NULL) == (depth <= ABK_JSON_DEPTH));
        if (value == NULL)
            CHECK(strstr(error.text, "too deeply nested (line 1, column 193)") != NULL);
        abk_arena_free(arena);
    }
    char wide[4096] = "[";
    for (int i = 0; i < 200; i++)
        strcat(wide, "[],{},");
    strcat(wide, "1]");
    abk_arena *arena = abk_arena_new();
    const abk_json *value = read_text(arena, wide, NULL);
    CHECK(value != NULL && value->len == 401); /* what is closed does not count */
    abk_arena_free(arena);
}

/* --- what it says ------------------------------------------------------------------------------
 */

static void test_strings(void)
{
    static const struct {
        const char *json;
        const char *text;
        uint32_t len;
    } all[] = {{"\"\"", "", 0},
               {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
               {"\"a\\u0000b\"", "a\0b", 3},
               {"\"\\u007f\\u0080\\u07ff\\u0800\\uFFFF\"",
                "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf", 11},
               {"\"\\uD83D\\uDE00\\ud800\\udc80\"", "\xf0\x9f\x98\x80\xf0\x90\x82\x80", 8},
               {"\"\\udbff\\udfff\"", "\xf4\x8f\xbf\xbf", 4},
               {"\"/\\udc80\\udcff.\"", "/\x80\xff.", 4},
               {"\"\\udc80\xc3\xa9\"", "\x80\xc3\xa9", 3}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        abk_error error = {0};
        abk_arena *arena = abk_arena_new();
        const abk_json *value = read_text(arena, all[i].json, &error);
        CHECK(value != NULL && value->kind == ABK_STRING && value->len == all[i].len &&
              memcmp(value->text, all[i].text, all[i].len + 1) == 0);
        abk_arena_free(arena);
    }
}

static void test_numbers(void)
{
    static const struct {
        const char *json;
        double number;
        bool integral;
        int64_t integer;
    } all[] = {{"0", 0, true, 0},
               {"-0", 0, true, 0},
               {"-17", -17, true, -17},
               {"9007199254740993", 9007199254740992.0, true, INT64_C(9007199254740993)},
               {"4611686018427387905", 4611686018427387904.0, true, INT64_C(4611686018427387905)},
               {"9223372036854775808", 9223372036854775808.0, false, 0},
               {"1.0", 1, false, 0},
               {"1e2", 100, false, 0},
               {"0.1", 0.1, false, 0},
               {"-2.5E-1", -0.25, false, 0}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        abk_arena *arena = abk_arena_new();
        const abk_json *value = read_text(arena, all[i].json, NULL);
        CHECK(value != NULL && value->kind == ABK_NUMBER && !(value->number < all[i].number) &&
              !(value->number > all[i].number));
        CHECK(value != NULL && value->integral == all[i].integral &&
              value->integer == all[i].integer);
        if (value != NULL)
            CHECK_TEXT(value->text, all[i].json);
        abk_arena_free(arena);
    }
}

static void test_members(void)
{
    abk_arena *arena = abk_arena_new();
    const abk_json *root =
        read_text(arena, "{\"a\":\"x\",\"a\\u0000\":\"x\\u0000\",\"b\":[1,2,3],\"c\":true}", NULL);
    CHECK(root != NULL && root->kind == ABK_OBJECT && root->len == 4);
    const abk_json *a = abk_json_member(root, "a");
    CHECK(a != NULL && a == root->first && abk_json_says(a, "x") && !abk_json_says(a, "xy"));
    CHECK(a != NULL && !abk_json_says(a->next, "x") && !abk_json_is_named(a->next, "a"));
    const abk_json *b = abk_json_member(root, "b");
    CHECK(b != NULL && b->len == 3 && b->first->next->next->integer == 3);
    CHECK(b != NULL && b->first->next->next->next == NULL && !abk_json_says(b, "b"));
    CHECK(abk_json_member(root, "d") == NULL && abk_json_member(root, "") == NULL);
    CHECK(abk_json_member(b, "a") == NULL && abk_json_member(NULL, "a") == NULL);
    const abk_json *c = abk_json_member(root, "c");
    CHECK(c != NULL && c->truth && c->next == NULL);
    abk_arena_free(arena);
}

static void check_written(const char *json, const char *want)
{
    abk_arena *arena = abk_arena_new();
    const abk_json *value = read_text(arena, json, NULL);
    abk_buf out = {0};
    CHECK(value != NULL);
    if (value != NULL)
        abk_json_write(&out, value);
    CHECK(!out.failed && abk_buf_append(&out, "", 1) == 0);
    CHECK_TEXT(abk_buf_at(&out), want);
    abk_buf_free(&out);
    abk_arena_free(arena);
}

static void test_writer(void)
{
    static const char *const same[] = {"null",
                                       "true",
                                       "false",
                                       "1",
                                       "-0.50e+07",
                                       "123456789012345678901234567890",
                                       "\"\"",
                                       "[]",
                                       "{}",
                                       "[1,[2,{\"a\":null}],\"b\"]",
                                       "{\"a\":{\"b\":[true,false]},\"\":\"\"}",
                                       "\"\xc3\xa9\xf0\x9f\x98\x80\"",
                                       "\"\\\"\\\\\""};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++)
        check_written(same[i], same[i]);
    check_written(" { \"a\" : [ 1 , 2 ] ,\n\"b\":{ } } ", "{\"a\":[1,2],\"b\":{}}");
    check_written("\"\\u00e9\\ud83d\\ude00\\/\"", "\"\xc3\xa9\xf0\x9f\x98\x80/\"");
}

/* What is written reads as the same, control characters and NUL as well. */
static void test_round_trip(void)
{
    abk_arena *arena = abk_arena_new();
    const abk_json *value =
        read_text(arena, "{\"\\u0000k\":\"\\u0000\\u0001\\u001f\\n\\u007f\"}", NULL);
    abk_buf out = {0};
    abk_json_write(&out, value);
    const abk_json *again = abk_json_read(arena, abk_buf_at(&out), abk_buf_len(&out), NULL);
    CHECK(again != NULL && again->len == 1 && again->first->name_len == 2);
    CHECK(again != NULL && again->first->len == 5 &&
          memcmp(again->first->text, value->first->text, 5) == 0);
    abk_buf_free(&out);
    abk_arena_free(arena);
}

/* --- out of memory -----------------------------------------------------------------------------
 */

static void test_no_memory(void)
{
    char text[20000] = "[";
    for (int i = 0; i < 900; i++)
        strcat(text, "{\"a\":\"b\"},");
    strcat(text, "1.5]");
    for (uint64_t n = 1;; n++) {
        abk_error error = {0};
        abk_test.fail_alloc_at = abk_test.allocations + n;
        abk_arena *arena = abk_arena_new();
        const abk_json *value = arena == NULL ? NULL : read_text(arena, text, &error);
        abk_test.fail_alloc_at = 0;
        if (value == NULL && arena != NULL) {
            CHECK(error.code == ABK_ENOMEM);
            CHECK_TEXT(error.text, "out of memory");
        }
        abk_arena_free(arena);
        if (value != NULL) {
            CHECK(n > 4);
            return;
        }
        CHECK(n < 300);
        if (n >= 100)
            return;
    }
}

/* A locale whose numbers have a comma, made here. */
static bool make_locale(const char *folder)
{
    char command[256];
    snprintf(command, sizeof command, "localedef -i de_DE -f UTF-8 %s/de_DE.UTF-8 2>/dev/null", folder);
    if (system(command) != 0)
        fprintf(stderr, "no localedef here: the locale is not tested\n");
    setenv("LOCPATH", folder, 1);
    return setlocale(LC_NUMERIC, "de_DE.UTF-8") != NULL;
}

static void test_locale(void)
{
    char folder[] = "/tmp/abk-test-XXXXXX";
    char command[64];
    CHECK(mkdtemp(folder) != NULL);
    if (make_locale(folder)) {
        abk_buf out = {0};
        abk_out_seconds(&out, "s", 1500 * ABK_S / 1000);
        CHECK(abk_buf_len(&out) == 13 && memcmp(abk_buf_at(&out), ",\"s\":1.500000", 13) == 0);
        CHECK(abk_number("1.5") > 1.4 && abk_number("-2.5e-1") < -0.2);
        abk_buf_free(&out);
    }
    setlocale(LC_NUMERIC, "C");
    unsetenv("LOCPATH");
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
}

/* Each name is looked up, not compared with all before it: this would take minutes. */
static void test_many_members(void)
{
    enum { MEMBERS = 300000, BYTES = MEMBERS * 16 };
    char *text = malloc(BYTES);
    if (text == NULL)
        abort();
    size_t len = 0;
    for (int i = 0; i < MEMBERS; i++)
        len += (size_t)snprintf(text + len, BYTES - len, "%c\"n%06d\":1", i == 0 ? '{' : ',', i);
    text[len++] = '}';
    abk_arena *arena = abk_arena_new();
    abk_error error;
    const abk_json *all = abk_json_read(arena, text, len, &error);
    CHECK(all != NULL && all->len == MEMBERS);
    memcpy(text + len - 11, "n000000", 7); /* the last one says what the first said */
    CHECK(abk_json_read(arena, text, len, &error) == NULL);
    CHECK(strstr(error.text, "stands there twice") != NULL);
    abk_arena_free(arena);
    free(text);
}

TEST_MAIN(TEST(test_locale), TEST(test_many_members), TEST(test_good), TEST(test_bad), TEST(test_nul_bytes), TEST(test_prefixes),
          TEST(test_depth), TEST(test_strings), TEST(test_numbers), TEST(test_members),
          TEST(test_writer), TEST(test_round_trip), TEST(test_no_memory))
