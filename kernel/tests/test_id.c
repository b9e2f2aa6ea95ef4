#include "../src/scan.h"
#include "test.h"

#include <stdlib.h>

static bool same(const char *a, const char *b)
{
    abk_id_key x, y;
    CHECK(abk_id_parse(&x, a, strlen(a)) == ABK_OK);
    CHECK(abk_id_parse(&y, b, strlen(b)) == ABK_OK);
    const bool is = abk_id_same(&x, &y);
    CHECK(is == abk_id_same(&y, &x) && (!is || x.hash == y.hash));
    CHECK(abk_same(abk_id_raw(&x), (abk_text){a, (uint32_t)strlen(a)}));
    abk_id_key moved = y;
    CHECK(abk_same(abk_id_raw(&moved), (abk_text){b, (uint32_t)strlen(b)}));
    abk_id_free(&x);
    abk_id_free(&moved);
    return is;
}

static void test_same(void)
{
    static const char *const groups[][8] = { /* one id each */
        {"0", "-0", "0.0", "-0.0", "0e5", "0.000E-7", "1e-99999999999999999999"},
        {"1", "1.0", "1e0", "10e-1", "0.1e1", "1.000", "100E-2", "0.01e+2"},
        {"-1", "-1.0", "-10e-1"},
        {"100", "1e2", "1E+2", "100.0", "0.1e3", "10e1"},
        {"12.5", "125e-1", "0.125e2", "12.50"},
        {"9007199254740993", "9007199254740993.0", "9.007199254740993e15"},
        {"10000000000000000000", "1e19", "0.1e20"},
        {"100000000000000000000", "1e20"},
        {"100000000000000000001", "1.00000000000000000001e20"},
        {"1e-7", "0.0000001"},
        {"\"1\"", "\"\\u0031\""},
        {"\"a\\n\\u00e9\"", "\"\\u0061\\u000a\xc3\xa9\""},
        {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\""},
        {"\"\\/\"", "\"/\""},
        {"\"\""},
        {"\"null\""},
        {"null"},
        {"\"01234567-89ab-cdef-0123-456789abcdef-and-more\"",
         "\"01234567-89ab-cdef-0123-456789abcdef-and-mor\\u0065\""},
    };
    enum { GROUPS = sizeof groups / sizeof *groups };
    for (size_t a = 0; a < GROUPS; a++)
        for (size_t b = 0; b < GROUPS; b++)
            for (size_t i = 0; i < 8 && groups[a][i] != NULL; i++)
                for (size_t k = 0; k < 8 && groups[b][k] != NULL; k++)
                    CHECK(same(groups[a][i], groups[b][k]) == (a == b));
}

static void test_parse(void)
{
    static const char *const bad[] = {"",    " 1",   "1 ",     "01",     "true", "[]",     "{}",
                                      "1e400", "\"", "\"a", "\"\xff\"", "nul",  "\"a\"b", "1,",
                                      "-",   "1.",   "\"\\q\"", "\"\n\"", "}",    "\"\\ud800\""};
    abk_id_key id;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(abk_id_parse(&id, bad[i], strlen(bad[i])) == ABK_EINVAL && id.heap == NULL);
    const abk_value wrong[] = {{.kind = ABK_ABSENT}, {.at = "true", .len = 4, .kind = ABK_BOOL},
                               {.at = "[]", .len = 2, .kind = ABK_ARRAY}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(abk_id_make(&id, &wrong[i]) == ABK_EINVAL);
    CHECK(abk_id_parse(&id, "null", 4) == ABK_OK && id.kind == ABK_NULL);
}

static bool fits(const char *text)
{
    const abk_value number = {
        .at = text, .len = (uint32_t)strlen(text), .kind = ABK_NUMBER, .escaped = true};
    return abk_id_fits(&number);
}

static void test_range(void)
{
    static char text[5000];
    static const char *const good[] = {"0", "9e99", "1e308", "1.7976931348623158e308", "0e9999999",
                                       "-1.7976931348623158e308", "1e-99999", "0.0001e312",
                                       "0.0e99999999999999999999", "100000e303"};
    static const char *const bad[] = {"1e309", "1.7976931348623159e308", "1.8e308", "-1.8e308",
                                      "1e99999999999999999999", "0.0001e313", "100000e304",
                                      "9.3e18446744073709551615"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(fits(good[i]));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!fits(bad[i]));
    memset(text, '1', 4300);
    CHECK(fits(text));
    text[4300] = '1';
    CHECK(!fits(text));
    text[309] = '\0';
    CHECK(fits(text));
    text[309] = 'e', text[310] = '0', text[311] = '\0';
    CHECK(fits(text));
    text[0] = '2';
    CHECK(!fits(text));
}

static void test_number(void)
{
    static const struct {
        const char *text;
        int64_t number;
    } table[] = {
        {"0", 0}, {"1", 1}, {"1234567", 1234567}, {"9007199254740992", INT64_C(1) << 53},
        {"9007199254740993", -1}, {"99999999999999999999", -1}, {"-1", -1}, {"-0", -1},
        {"1.0", -1}, {"1e2", -1}, {"", -1},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const abk_value value = {.at = table[i].text, .len = (uint32_t)strlen(table[i].text),
                                 .kind = ABK_NUMBER};
        CHECK(abk_id_number(&value) == table[i].number);
    }
    const abk_value text = {.at = "5", .len = 1, .kind = ABK_STRING};
    CHECK(abk_id_number(&text) == -1);
}

static void test_memory(void)
{
    static const char *const small[] = {"1", "9007199254740993", "-0.0", "1.5e10", "null", "1e19",
                                        "\"\"", "\"a\\nb\"", "3.14159265358979",
                                        "\"01234567-89ab-cdef-0123-456789abcdef\""};
    static const char *const large[] = {"\"01234567-89ab-cdef-0123-456789abcdef, and more\"",
                                        "\"\\u0041 very, very long one here\"",
                                        "3.1415926535897932384626433832795028841971"};
    abk_id_key id, other;
    const uint64_t before = abk_test.allocations;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        CHECK(abk_id_parse(&id, small[i], strlen(small[i])) == ABK_OK && id.heap == NULL);
        abk_id_free(&id);
    }
    abk_message m;
    static const char line[] = "{\"id\":\"x\",\"method\":\"m\",\"params\":{\"a\":[1]},\"id\":2}\n";
    char out[sizeof line];
    bool none;
    CHECK(abk_scan(line, strlen(line), &m) == ABK_OK);
    abk_unrepeat(line, strlen(line), out);
    abk_salvage_id((abk_text){line, 20}, ABK_TEXT(",\"id\":5}"), &none);
    CHECK(abk_test.allocations == before);
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) {
        CHECK(abk_id_parse(&id, large[i], strlen(large[i])) == ABK_OK && id.heap != NULL);
        CHECK(abk_id_parse(&other, large[i], strlen(large[i])) == ABK_OK);
        CHECK(abk_id_same(&id, &other));
        abk_id_free(&id);
        abk_id_free(&other);
        CHECK(id.heap == NULL);
        abk_test.fail_alloc_at = abk_test.allocations + 1;
        CHECK(abk_id_parse(&id, large[i], strlen(large[i])) == ABK_ENOMEM && id.heap == NULL);
        abk_test.fail_alloc_at = 0;
    }
}

/* --- the ends of a line ----------------------------------------------------------------------- */

static void test_salvage(void)
{
    static const struct {
        const char *prefix, *suffix, *id; /* id NULL: not known */
        bool none, answers;
    } table[] = {
        {"{\"jsonrpc\":\"2.0\",\"id\":5,\"result\":\"xx", "xx\"}\n", "5", false, true},
        {" { \"id\" : \"a\" , \"result\":{", "", "\"a\"", false, true},
        {"{\"\\u0065rror\":{\"a\":1},", "", NULL, false, true},
        {"{\"id\":1,\"params\":[],\"result\":1,", "", "1", false, false},
        {"{\"id\":1,\"method\":\"m\",\"result\":1,", "", NULL, true, false},
        {"{\"id\":1,\"result\"", "", "1", false, false},
        {"{\"i\\u0064\":7,\"x", "", "7", false, false},
        {"{\"id\":1,\"id\":2,\"x", "", "2", false, false},
        {"{\"id\":1,\"method\":\"m\",\"params\":", "", NULL, true, false},
        {"{\"method\":\"m\",", ",\"id\":5}", NULL, true, false},
        {"{\"\\u006dethod\":1,", ",\"id\":5}", NULL, true, false},
        {"{\"id\":null,\"x", "", "null", true, false},
        {"{\"id\":true,\"x", "", NULL, false, false},
        {"{\"id\":01,\"x", ",\"id\":3}\r\n", "3", false, false},
        {"{\"id\":5", "5}", NULL, false, false},
        {"{\"id\":[1],\"id\":2,", "", NULL, false, false},
        {"{\"result\":\"xx", "xx\",\"id\":5}\n", "5", false, true},
        {"{\"result\":\"x", "\" , \"id\" : \"a,b\" , \"jsonrpc\" : \"2.0\" } \n", "\"a,b\"", false, true},
        {"{\"result\":\"xx", "xx\\\",\\\"id\\\":5}\"}\n", NULL, false, true},
        {"{\"result\":\"xx", "x,\"id\":5}}\n", NULL, false, true},
        {"{\"result\":\"xx", "x,\"id\":5,\"jsonrpc\":\"1.0\"}\n", NULL, false, true},
        {"{\"result\":\"xx", "x,\"id\":5,\"x\":1}\n", NULL, false, true},
        {"{\"result\":\"xx", "x,\"id\":null}", "null", true, true},
        {"{\"result\":\"xx", "x,\"id\":1e400}", NULL, false, true},
        {"{\"x\t\":1,\"id\":4,", "", "4", false, false},
        {"{\"id\":\"\t\",", ",\"id\":6}", "6", false, false},
        {"", "", NULL, false, false}, {"{", "}", NULL, false, false}, {"{\"", ",", NULL, false, false},
    };
    CHECK(!abk_salvage_answers((abk_text){NULL, 0}));
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const abk_text prefix = {table[i].prefix, (uint32_t)strlen(table[i].prefix)};
        const abk_text suffix = {table[i].suffix, (uint32_t)strlen(table[i].suffix)};
        bool none;
        const abk_value id = abk_salvage_id(prefix, suffix, &none);
        CHECK(none == table[i].none && abk_salvage_answers(prefix) == table[i].answers);
        if (table[i].id == NULL)
            CHECK(id.kind == ABK_ABSENT);
        else
            CHECK(abk_same(abk_value_raw(&id),
                           (abk_text){table[i].id, (uint32_t)strlen(table[i].id)}));
    }
}

TEST_MAIN(TEST(test_same), TEST(test_parse), TEST(test_range), TEST(test_number),
          TEST(test_memory), TEST(test_salvage))
