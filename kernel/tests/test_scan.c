#include "../src/scan.h"
#include "test.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static int scan(const char *line, abk_message *m)
{
    return abk_scan(line, strlen(line), m);
}

static bool says(const abk_value *value, const char *raw)
{
    const abk_text text = abk_value_raw(value);
    return abk_same(text, (abk_text){raw, (uint32_t)strlen(raw)});
}

static abk_value member(const char *line, const char *name)
{
    const abk_value whole = {.at = line, .len = (uint32_t)strlen(line), .kind = ABK_OBJECT};
    const abk_path path = {1, {{name, (uint32_t)strlen(name)}}};
    abk_value found;
    abk_scan_path(&whole, &path, &found);
    return found;
}

/* --- lines ----------------------------------------------------------------------------------- */

static void test_members(void)
{
    static const char line[] =
        "{\"jsonrpc\":\"2.0\", \"id\" : 5 ,\"method\":\"a\\n\",\"params\":[1],"
        "\"result\":{\"a\":{}},\"error\":null,\"sessionId\":\"\",\"pool\":true}\r\n";
    abk_message m;
    CHECK(scan(line, &m) == ABK_OK);
    CHECK(m.id.kind == ABK_NUMBER && says(&m.id, "5"));
    CHECK(m.method.kind == ABK_STRING && m.method.escaped && says(&m.method, "\"a\\n\""));
    CHECK(m.method.at == strstr(line, "a\\n") && m.method.len == 3);
    CHECK(m.params.kind == ABK_ARRAY && says(&m.params, "[1]"));
    CHECK(m.result.kind == ABK_OBJECT && says(&m.result, "{\"a\":{}}"));
    CHECK(m.error.kind == ABK_NULL && says(&m.error, "null"));
    CHECK(m.session.kind == ABK_STRING && m.session.len == 0 && !m.session.escaped);
    CHECK(m.pool.kind == ABK_BOOL && says(&m.pool, "true"));
    CHECK(m.id.member == strstr(line, "\"id\"") && m.id.member_len == 8);
    CHECK(!m.repeated && !m.odd_session && m.reason == NULL);
    CHECK(scan("{}", &m) == ABK_OK && m.id.kind == ABK_ABSENT && m.pool.kind == ABK_ABSENT);
    CHECK(scan("{\"i\\u0064\":1,\"\\u0070\\u0061rams\":2,\"id\\u0000\":3}", &m) == ABK_OK);
    CHECK(says(&m.id, "1") && says(&m.params, "2") && !m.repeated);
    CHECK(scan("{\"Id\":1,\"idd\":2,\"i\":3,\"\":4,\"POOL\":5,\"errors\":6}", &m) == ABK_OK);
    CHECK(m.id.kind == ABK_ABSENT && m.pool.kind == ABK_ABSENT && m.error.kind == ABK_ABSENT);
}

static void test_chunk(void)
{
    static const char line[] = ABK_CHUNK_START "{\"a\":1}" ABK_CHUNK_END;
    abk_message m, same;
    CHECK(scan(line, &m) == ABK_OK && m.chunk && abk_role_of(&m) == ABK_NOTIFICATION);
    CHECK(scan("{ \"jsonrpc\":\"2.0\",\"method\":\"chunk\",\"params\":{\"a\":1}}", &same) ==
          ABK_OK);
    CHECK(!same.chunk && m.method.at == strstr(line, "chunk") && says(&m.method, "\"chunk\""));
    CHECK(m.method.member == strstr(line, "\"method"));
    CHECK(m.params.member == strstr(line, "\"params"));
    CHECK(m.method.member_len == same.method.member_len && says(&m.params, "{\"a\":1}"));
    CHECK(m.params.member_len == same.params.member_len);
    CHECK(scan(ABK_CHUNK_START "{} , \"id\":1,\"method\":\"x\"}", &m) == ABK_OK);
    CHECK(m.chunk && m.repeated && says(&m.method, "\"x\"") && says(&m.id, "1"));
    CHECK(scan(ABK_CHUNK_START "{};}", &m) == ABK_EPROTO);
    CHECK(scan(ABK_CHUNK_START "{}", &m) == ABK_EPROTO);
    CHECK(scan(ABK_CHUNK_START "{]}", &m) == ABK_EPROTO);
    CHECK(scan(ABK_CHUNK_START "{}}}", &m) == ABK_EPROTO);
    CHECK(scan(ABK_CHUNK_START "[]}", &m) == ABK_OK && !m.chunk);
}

static void test_repeated(void)
{
    abk_message m;
    CHECK(scan("{\"id\":1,\"x\":1,\"x\":2,\"i\\u0064\":\"b\"}", &m) == ABK_OK);
    CHECK(m.repeated && says(&m.id, "\"b\""));
    CHECK(scan("{\"x\":1,\"x\":2}", &m) == ABK_OK && !m.repeated);
    CHECK(scan("{\"id\":true,\"id\":1}", &m) == ABK_EPROTO);
    CHECK(scan("{\"method\":1,\"method\":\"m\"}", &m) == ABK_EPROTO);
    CHECK(scan("{\"sessionId\":1,\"sessionId\":\"s\",\"method\":\"m\"}", &m) == ABK_OK);
    CHECK(m.odd_session && m.session.kind == ABK_STRING && !abk_scan_worker_ok(&m));
}

static void test_results(void)
{
    static const struct {
        const char *line;
        int result;
    } table[] = {
        {"", ABK_AGAIN}, {"\n", ABK_AGAIN}, {" \t\r\n", ABK_AGAIN}, {"\r", ABK_AGAIN},
        {"{}", ABK_OK}, {" { } \n", ABK_OK}, {"{\"a\":1}\r\n", ABK_OK},
        {"{}\n\n", ABK_EPROTO}, {"{\n}", ABK_EPROTO}, {"\n{}", ABK_EPROTO}, {"\v{}", ABK_EPROTO},
        {"{}\f", ABK_EPROTO}, {"\xef\xbb\xbf{}", ABK_EPROTO}, {"{}\xc2\xa0", ABK_EPROTO},
        {"[]", ABK_EPROTO}, {"1", ABK_EPROTO}, {"null", ABK_EPROTO}, {"\"a\"", ABK_EPROTO},
        {"{", ABK_EPROTO}, {"}", ABK_EPROTO}, {"{}}", ABK_EPROTO}, {"{}{}", ABK_EPROTO},
        {"{} {}", ABK_EPROTO}, {"{}x", ABK_EPROTO}, {"{},", ABK_EPROTO}, {"{,}", ABK_EPROTO},
        {"{\"a\":1,}", ABK_EPROTO}, {"{\"a\" 1}", ABK_EPROTO}, {"{\"a\":}", ABK_EPROTO},
        {"{\"a\"}", ABK_EPROTO}, {"{a:1}", ABK_EPROTO}, {"{1:1}", ABK_EPROTO},
        {"{\"a\":1 \"b\":2}", ABK_EPROTO}, {"{\"a\":{}", ABK_EPROTO}, {"{\"a\":[}", ABK_EPROTO},
        {"{\"a\":[}]", ABK_EPROTO}, {"{\"a\":[1}", ABK_EPROTO}, {"{\"a\":{\"b\":1]}", ABK_EPROTO},
        {"{\"a\":\"}", ABK_EPROTO}, {"{\"}", ABK_EPROTO}, {"{\"a\":\"\\}", ABK_EPROTO},
        {"{\"id\":true}", ABK_EPROTO}, {"{\"id\":[]}", ABK_EPROTO}, {"{\"id\":{}}", ABK_EPROTO},
        {"{\"id\":null}", ABK_OK}, {"{\"id\":-0.5e1}", ABK_OK}, {"{\"id\":\"\"}", ABK_OK},
        {"{\"method\":null}", ABK_EPROTO}, {"{\"method\":1}", ABK_EPROTO},
        {"{\"method\":{}}", ABK_EPROTO}, {"{\"method\":\"\"}", ABK_OK},
        {"{\"sessionId\":{},\"pool\":[]}", ABK_OK}, {"{\"sessionId\":\"\xff\"}", ABK_EPROTO},
        {"{\"id\":\"\xc0\x80\"}", ABK_EPROTO}, {"{\"method\":\"\xed\xa0\x80\"}", ABK_EPROTO},
        {"{\"id\":\"\xf4\x8f\xbf\xbf\"}", ABK_OK}, {"{\"id\":\"\xf4\x90\x80\x80\"}", ABK_EPROTO},
        {"{\"method\":\"plain \xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80\"}", ABK_OK},
        {"{\"method\":\"a long one, cut inside \xe2\x82\"}", ABK_EPROTO},
        {"{\"pool\":\"\xff\",\"\xff\":\"\xff\"}", ABK_OK},
        {"{\"id\":1e400}", ABK_EPROTO}, {"{\"params\":1e400}", ABK_OK},
    };
    abk_message m;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const int result = scan(table[i].line, &m);
        if (result != table[i].result)
            fprintf(stderr, "%d for %s\n", result, table[i].line);
        CHECK(result == table[i].result);
        CHECK((result == ABK_EPROTO) == (m.reason != NULL));
    }
    CHECK(abk_scan("{}\0", 3, &m) == ABK_EPROTO);
    CHECK(abk_scan("{\"a\":\"\0\"}", 9, &m) == ABK_EPROTO);
}

static bool takes(const char *value)
{
    char line[512];
    abk_message m;
    snprintf(line, sizeof line, "{\"x\":[%s]}", value);
    const int inside = scan(line, &m);
    snprintf(line, sizeof line, "{\"params\":%s}", value);
    CHECK(scan(line, &m) == inside);
    return inside == ABK_OK;
}

static void test_values(void)
{
    static const char *const good[] = {
        "0", "-0", "10", "-1.5", "0.0", "1e5", "1E+5", "1e-05", "123456789012345678901234567890",
        "true", "false", "null", "[]", "{}", "[[],[{}]]", "{\"a\":[],\"a\":{}}", "[ 1 , 2 ]",
        "{ \"a\" : 1 , \"b\" : 2 }", "\"\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\"", "\"\x7f\"",
        "\"\\ud83d\\uDE00\"", "\"\\udbff\\udfff\"", "\"\\u0000\"", "\"\xff\"", "{\"\xff\":1}"};
    static const char *const bad[] = {
        "01", "-", "-01", "1.", ".5", "1e", "1e+", "1.e1", "+1", "0x1", "1a", "1.5.5", "1e5.5",
        "00", "--1", "NaN", "Infinity", "nul", "nulL", "tru", "truex", "falsy", "'a'", "[1,]",
        "[,]", "[,1]", "[1 2]", "[1,,2]", "{\"a\":1,}", "{,}", "{\"a\"}", "{\"a\":}", "{1:1}",
        "[1}", "{\"a\":1]", "[", "]", "{", "}", "\"", "\"\\\"", "\"\\q\"", "\"\\\"\"\"",
        "\"\\u12\"", "True",
        "\"\\u12g4\"", "\"\\ud800\"", "\"\\ud800x23456\"", "\"\\ud800\\n23456\"",
        "\"\\ud800\\ud800\"", "\"\\udc00\"", "{\"\\ud800\":1}", "{\"\\q\":1}", "\"\x01\"",
        "\"\x1f\"", "{\"\t\":1}", "1\v", "\xa0 1", ":", ","};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++)
        CHECK(takes(good[i]) || (fprintf(stderr, "not taken: %s\n", good[i]), false));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!takes(bad[i]) || (fprintf(stderr, "taken: %s\n", bad[i]), false));
}

/* A quote, a backslash and a control character are seen wherever they stand in a long string. */
static void test_long_strings(void)
{
    enum { LONG = 300 };
    char line[LONG + 20];
    abk_message m;
    for (size_t len = 0; len < LONG; len++) {
        const size_t size = (size_t)snprintf(line, sizeof line, "{\"id\":\"%*s\"}", (int)len, "");
        CHECK(abk_scan(line, size, &m) == ABK_OK && m.id.len == len && !m.id.escaped);
        for (size_t at = 7; at < 7 + len; at += len > 40 ? 7 : 1) {
            line[at] = '\x1f';
            CHECK(abk_scan(line, size, &m) == ABK_EPROTO);
            line[at] = '"';
            CHECK(abk_scan(line, size, &m) == ABK_EPROTO);
            line[at] = '\x80';
            CHECK(abk_scan(line, size, &m) == ABK_EPROTO);
            line[at] = '\\';
            CHECK(abk_scan(line, size, &m) == ABK_EPROTO);
            line[at + 1] = at + 1 < 7 + len ? '\\' : '"';
            CHECK(at + 1 >= 7 + len || (abk_scan(line, size, &m) == ABK_OK && m.id.escaped));
            line[at] = ' ';
            line[at + 1] = at + 1 < 7 + len ? ' ' : '"';
        }
    }
}

static int nest(size_t depth, const char *open, const char *inner, const char *close)
{
    static char line[16 * (ABK_MAX_DEPTH + 2)];
    abk_message m;
    char *p = line + sprintf(line, "{\"params\":");
    for (size_t i = 1; i < depth; i++)
        p += sprintf(p, "%s", open);
    p += sprintf(p, "%s", inner);
    for (size_t i = 1; i < depth; i++)
        p += sprintf(p, "%s", close);
    p += sprintf(p, "}");
    return abk_scan(line, (size_t)(p - line), &m);
}

static void test_depth(void)
{
    CHECK(nest(ABK_MAX_DEPTH, "[", "", "]") == ABK_OK);
    CHECK(nest(ABK_MAX_DEPTH + 1, "[", "", "]") == ABK_EPROTO);
    CHECK(nest(ABK_MAX_DEPTH, "{\"a\":", "1", "}") == ABK_OK);
    CHECK(nest(ABK_MAX_DEPTH + 1, "{\"a\":", "1", "}") == ABK_EPROTO);
    CHECK(nest(ABK_MAX_DEPTH - 1, "[{},", "0", "]") == ABK_OK);
    CHECK(nest(ABK_MAX_DEPTH / 2, "[{\"a\":", "[]", "}]") == ABK_OK);
    CHECK(nest(ABK_MAX_DEPTH, "[", "", "}") == ABK_EPROTO);
}

static void test_roles(void)
{
    static const struct {
        const char *line;
        abk_role role;
        bool worker;
    } table[] = {
        {"{\"id\":1,\"method\":\"m\"}", ABK_REQUEST, true},
        {"{\"id\":null,\"method\":\"m\",\"result\":1}", ABK_REQUEST, true},
        {"{\"method\":\"m\"}", ABK_NOTIFICATION, true},
        {"{\"id\":1,\"result\":null}", ABK_RESPONSE, true},
        {"{\"id\":null,\"error\":{}}", ABK_RESPONSE, true},
        {"{\"result\":1}", ABK_NOTHING, false},
        {"{\"id\":1}", ABK_NOTHING, false},
        {"{\"method\":\"m\",\"sessionId\":\"s\"}", ABK_NOTIFICATION, true},
        {"{\"method\":\"m\",\"sessionId\":null}", ABK_NOTIFICATION, false},
        {"{\"method\":\"m\",\"pool\":7}", ABK_NOTIFICATION, true},
    };
    abk_message m;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        CHECK(scan(table[i].line, &m) == ABK_OK);
        CHECK(abk_role_of(&m) == table[i].role);
        CHECK(abk_scan_worker_ok(&m) == table[i].worker);
    }
}

/* Every prefix ends, and every suffix begins, where memory does. */
static void test_guard_page(void)
{
    static const char *const lines[] = {
        "{\"jsonrpc\":\"2.0\",\"id\":12,\"method\":\"m\",\"params\":{\"a\":[-2.5e3,true,null]}}\n",
        "{\"method\":\"\\ud83d\\ude00\\n\",\"id\":\"\xf0\x9f\x98\x80\",\"sessionId\":\"false\"}",
        ("{\"pool\":\"0123456789012345678901234567890123456789012345678901234567890123456789\","
         "\"\\u0069d\":-0.001E+10,\"error\":{\"code\":-1,\"a\":[[],{}]}} \r\n"),
    };
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *const memory = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                              -1, 0);
    CHECK(memory != MAP_FAILED);
    CHECK(mprotect(memory, page, PROT_NONE) == 0);
    CHECK(mprotect(memory + 2 * page, page, PROT_NONE) == 0);
    char *const begin = memory + page, *const end = memory + 2 * page;
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        const size_t len = strlen(lines[i]);
        for (size_t cut = 0; cut <= len; cut++) {
            abk_message m;
            abk_id_key id;
            bool none;
            char *at = end - cut; /* a prefix */
            memcpy(at, lines[i], cut);
            CHECK(abk_scan(at, cut, &m) == ABK_OK ||
                  strspn(lines[i] + cut, " \r\n") != len - cut || cut == 0);
            abk_salvage_id((abk_text){at, (uint32_t)cut}, (abk_text){at, (uint32_t)cut}, &none);
            at = end - (len - cut); /* a suffix */
            memcpy(at, lines[i] + cut, len - cut);
            CHECK((abk_scan(at, len - cut, &m) == ABK_OK) == (cut == 0) || lines[i][cut] == '{');
            if (abk_id_parse(&id, at, len - cut) == ABK_OK)
                abk_id_free(&id);
            memcpy(begin, lines[i] + cut, len - cut);
            abk_scan(begin, len - cut, &m);
            abk_salvage_id((abk_text){begin, 0}, (abk_text){begin, (uint32_t)(len - cut)}, &none);
        }
    }
    munmap(memory, 3 * page);
}

/* --- inside values --------------------------------------------------------------------------- */

static void test_path(void)
{
    static const char line[] =
        "{\"params\":{\"a\":{\"b\":1}, \"_me\\u0074a\":{\"progressToken\":\"x\"},"
        "\"a\":{\"b\":2,\"c\":[]},\"e\":{},\"_meta\":{\"progressToken\":7 }}}";
    const struct {
        abk_path path;
        const char *found;
    } table[] = {
        {{1, {ABK_TEXT("a")}}, "{\"b\":2,\"c\":[]}"},
        {{2, {ABK_TEXT("a"), ABK_TEXT("b")}}, "2"},
        {{2, {ABK_TEXT("_meta"), ABK_TEXT("progressToken")}}, "7"},
        {{2, {ABK_TEXT("a"), ABK_TEXT("x")}}, NULL},
        {{3, {ABK_TEXT("a"), ABK_TEXT("c"), ABK_TEXT("d")}}, NULL},
        {{2, {ABK_TEXT("e"), ABK_TEXT("")}}, NULL},
        {{0, {{NULL, 0}}}, NULL},
    };
    abk_message m;
    abk_value found;
    CHECK(scan(line, &m) == ABK_OK);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const bool is = abk_scan_path(&m.params, &table[i].path, &found);
        CHECK(is == (table[i].found != NULL) && is == (found.kind != ABK_ABSENT));
        CHECK(!is || says(&found, table[i].found));
    }
    CHECK(abk_scan_path(&m.params, &table[2].path, &found));
    CHECK(found.member_len == strlen("\"progressToken\":7") && *found.member == '"');
    CHECK(!abk_scan_path(&m.id, &table[0].path, &found) && found.kind == ABK_ABSENT);
    found = member("{\"\\u0061\":1}", "a");
    CHECK(says(&found, "1"));
}

static void test_text(void)
{
    static const struct {
        const char *raw, *text;
    } table[] = {
        {"", ""}, {"abc", "abc"}, {"\\\"\\\\\\/\\b\\f\\n\\r\\t", "\"\\/\b\f\n\r\t"},
        {"\\u0041\\u00e9\\u20AC\\ud83d\\ude00.", "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80."},
        {"\\ud800", "\xed\xa0\x80"}, {"\\udc00\\ud800\\u0041", "\xed\xb0\x80\xed\xa0\x80" "A"},
        {"\xc3\xa9\\n\xff", "\xc3\xa9\n\xff"}, {"\\ud800\\n", "\xed\xa0\x80\n"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const uint32_t len = (uint32_t)strlen(table[i].raw), size = (uint32_t)strlen(table[i].text);
        const abk_value value = {.at = table[i].raw, .len = len, .kind = ABK_STRING,
                                 .escaped = strchr(table[i].raw, '\\') != NULL};
        char out[64];
        CHECK(abk_decode(&value, out) == size && memcmp(out, table[i].text, size) == 0);
        CHECK(abk_value_is(&value, (abk_text){table[i].text, size}));
        CHECK(!abk_value_is(&value, ABK_TEXT("other")));
        CHECK(size == 0 || !abk_value_is(&value, (abk_text){table[i].text, size - 1}));
        CHECK(!abk_value_is(&value, (abk_text){table[i].text, size + 1}));
    }
    const abk_value nul = {.at = "\\u0000", .len = 6, .kind = ABK_STRING, .escaped = true};
    CHECK(abk_value_is(&nul, (abk_text){"\0", 1}) && !abk_value_is(&nul, (abk_text){NULL, 0}));
    const abk_value number = {.at = "5", .len = 1, .kind = ABK_NUMBER};
    CHECK(!abk_value_is(&number, ABK_TEXT("5")));
}

/* --- members that go ------------------------------------------------------------------------- */

static char *without(const char *line, const abk_text *cuts, uint32_t count)
{
    static char out[256];
    char *to = out;
    for (uint32_t i = 0; i < count; i++) {
        to = (char *)memcpy(to, line, (size_t)(cuts[i].at - line)) + (cuts[i].at - line);
        line = cuts[i].at + cuts[i].len;
    }
    memcpy(to, line, strlen(line) + 1);
    return out;
}

static void test_cut(void)
{
    static const struct {
        const char *line, *session, *both; /* without sessionId; without pool as well */
    } table[] = {
        {"{\"sessionId\":1}\n", "{}\n", "{}\n"},
        {"{ \"sessionId\" : 1 }", "{  }", "{  }"},
        {"{\"a\":1,\"sessionId\":\"x\"}", "{\"a\":1}", "{\"a\":1}"},
        {"{\"sessionId\":[1],\"a\":1}", "{\"a\":1}", "{\"a\":1}"},
        {"{\"a\":1 , \"sessionId\":{} , \"b\":2}", "{\"a\":1 ,  \"b\":2}", "{\"a\":1 ,  \"b\":2}"},
        {"{\"sessionId\":1,\"pool\":2}", "{\"pool\":2}", "{}"},
        {"{\"pool\":2,\"sessionId\":1}", "{\"pool\":2}", "{}"},
        {"{\"a\":1,\"pool\":2 , \"sessionId\":1}", "{\"a\":1,\"pool\":2 }", "{\"a\":1}"},
        {"{\"sessionId\":1 , \"pool\":2,\"a\":1}", "{ \"pool\":2,\"a\":1}", "{\"a\":1}"},
        {"{\"sessionId\":1,\"a\":1,\"pool\":2}", "{\"a\":1,\"pool\":2}", "{\"a\":1}"},
        {"{\"pool\":2,\"a\":1,\"sessionId\":1}", "{\"pool\":2,\"a\":1}", "{\"a\":1}"},
        {"{\"a\":1,\"pool\":2,\"b\":1,\"sessionId\":1,\"c\":1}",
         "{\"a\":1,\"pool\":2,\"b\":1,\"c\":1}", "{\"a\":1,\"b\":1,\"c\":1}"},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const char *const line = table[i].line;
        const size_t len = strlen(line);
        abk_message m;
        abk_text cuts[2];
        CHECK(abk_scan(line, len, &m) == ABK_OK);
        cuts[0] = abk_cut(line, len, &m.session);
        CHECK_TEXT(without(line, cuts, 1), table[i].session);
        CHECK_TEXT(without(line, cuts, abk_cut_both(line, len, &m.session, &m.pool, cuts)),
                   table[i].both);
        CHECK_TEXT(without(line, cuts, abk_cut_both(line, len, &m.pool, &m.session, cuts)),
                   table[i].both);
        CHECK(abk_cut(line, len, &m.id).len == 0);
        CHECK(abk_cut_both(line, len, &m.id, &m.error, cuts) == 0);
    }
}

static void test_unrepeat(void)
{
    static const struct {
        const char *line, *out;
    } table[] = {
        {"{\"id\":1,\"x\":1,\"id\":2,\"x\":2}\n", "{\"x\":1,\"id\":2,\"x\":2}\n"},
        {"{ \"i\\u0064\" : 1 , \"id\":2 }\r\n", "{\"id\":2}\n"},
        {"{\"pool\":1,\"pool\":2,\"pool\":{}}", "{\"pool\":{}}"},
        {"{\"id\":1,\"method\":\"m\"}\n", "{\"id\":1,\"method\":\"m\"}\n"},
        {"{}\n", "{}\n"}, {"{ }", "{}"}, {"{\"id\":1,\"id\":true}\n", "{\"id\":1,\"id\":true}\n"},
        {" \n", " \n"}, {"", ""},
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char out[64] = {0};
        const size_t size = abk_unrepeat(table[i].line, strlen(table[i].line), out);
        CHECK(size == strlen(table[i].out));
        CHECK_TEXT(out, table[i].out);
    }
}

TEST_MAIN(TEST(test_members), TEST(test_chunk), TEST(test_repeated), TEST(test_results),
          TEST(test_values),
          TEST(test_long_strings), TEST(test_depth), TEST(test_roles), TEST(test_guard_page),
          TEST(test_path), TEST(test_text), TEST(test_cut), TEST(test_unrepeat))
