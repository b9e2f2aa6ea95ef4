/* The scanner on any bytes; what it says must hold, and what is made of a line must scan again. */
#include "../src/scan.h"

#include <stdio.h>
#include <stdlib.h>

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

enum { MEMBERS = 7 };

/* A copy that ends where its memory ends, so that a read behind it is seen. */
static char *flush_copy(const char *at, size_t len)
{
    char *copy = malloc(len == 0 ? 1 : len);
    MUST(copy != NULL);
    if (len > 0)
        memcpy(copy, at, len);
    return copy;
}

static const abk_value *member(const abk_message *m, int i)
{
    const abk_value *const all[MEMBERS] = {&m->id,    &m->method,  &m->params, &m->result,
                                           &m->error, &m->session, &m->pool};
    return all[i];
}

static bool same_value(const abk_value *a, const abk_value *b)
{
    return a->kind == b->kind && a->escaped == b->escaped &&
           abk_same((abk_text){a->at, a->len}, (abk_text){b->at, b->len});
}

/* The value is one to a scanner that finds it in a line of its own. */
static void check_value(const abk_value *value)
{
    const abk_text raw = abk_value_raw(value);
    const size_t len = raw.len + 7;
    char *line = malloc(len);
    MUST(line != NULL);
    memcpy(line, "{\"zz\":", 6);
    memcpy(line + 6, raw.at, raw.len);
    line[len - 1] = '}';
    abk_message m;
    MUST(abk_scan(line, len, &m) == ABK_OK);
    const abk_value whole = {.at = line, .len = (uint32_t)len, .kind = ABK_OBJECT};
    const abk_path path = {1, {ABK_TEXT("zz")}};
    abk_value found;
    MUST(abk_scan_path(&whole, &path, &found) && same_value(&found, value));
    free(line);
    if (value->kind != ABK_STRING)
        return;
    char *out = malloc(value->len == 0 ? 1 : value->len);
    MUST(out != NULL);
    const size_t size = abk_decode(value, out);
    MUST(size <= value->len && (value->escaped || size == value->len));
    MUST(abk_value_is(value, (abk_text){out, (uint32_t)size}));
    free(out);
}

static void check_ranges(const char *line, size_t len, const abk_message *m)
{
    for (int i = 0; i < MEMBERS; i++) {
        const abk_value *const value = member(m, i);
        if (value->kind == ABK_ABSENT) {
            MUST(value->len == 0 && value->member_len == 0);
            continue;
        }
        const abk_text raw = abk_value_raw(value);
        MUST(value->member > line && *value->member == '"' && value->member < raw.at);
        MUST(value->member + value->member_len == raw.at + raw.len);
        MUST(raw.at + raw.len < line + len);
        check_value(value);
    }
}

/* The line without some bytes. */
static size_t leave_out(const char *line, size_t len, const abk_text *cuts, uint32_t count,
                        char *out)
{
    const char *from = line;
    char *to = out;
    for (uint32_t i = 0; i < count; i++) {
        MUST(cuts[i].at >= from && cuts[i].at + cuts[i].len <= line + len);
        memcpy(to, from, (size_t)(cuts[i].at - from));
        to += cuts[i].at - from;
        from = cuts[i].at + cuts[i].len;
    }
    memcpy(to, from, (size_t)(line + len - from));
    return (size_t)(to - out) + (size_t)(line + len - from);
}

static void check_rest(const char *line, size_t len, const abk_message *was, int gone, int also)
{
    abk_message m;
    MUST(abk_scan(line, len, &m) == ABK_OK);
    for (int i = 0; i < MEMBERS; i++) {
        const bool out = i == gone || i == also;
        if (out && !was->repeated)
            MUST(member(&m, i)->kind == ABK_ABSENT);
        else if (!out)
            MUST(same_value(member(&m, i), member(was, i)));
    }
}

static void check_cuts(const char *line, size_t len, const abk_message *m)
{
    char *out = malloc(len);
    MUST(out != NULL);
    for (int i = 0; i < MEMBERS; i++) {
        if (member(m, i)->kind == ABK_ABSENT)
            continue;
        const abk_text cut = abk_cut(line, len, member(m, i));
        check_rest(out, leave_out(line, len, &cut, 1, out), m, i, i);
        for (int k = 0; k < MEMBERS; k++) {
            abk_text cuts[2];
            const uint32_t count = abk_cut_both(line, len, member(m, i), member(m, k), cuts);
            if (i != k)
                check_rest(out, leave_out(line, len, cuts, count, out), m, i, k);
        }
    }
    free(out);
}

static void check_unrepeat(const char *line, size_t len, const abk_message *was)
{
    char *out = malloc(len);
    MUST(out != NULL);
    const size_t size = abk_unrepeat(line, len, out);
    MUST(size <= len);
    char *exact = flush_copy(out, size);
    abk_message m;
    MUST(abk_scan(exact, size, &m) == ABK_OK && !m.repeated);
    for (int i = 0; i < MEMBERS; i++)
        MUST(same_value(member(&m, i), member(was, i)));
    free(exact);
    free(out);
}

static void check_id(const abk_value *value)
{
    abk_id_key id, again, canon;
    MUST(abk_id_make(&id, value) == ABK_OK);
    const abk_text raw = abk_id_raw(&id);
    MUST(abk_same(raw, abk_value_raw(value)));
    MUST(abk_id_parse(&again, raw.at, raw.len) == ABK_OK && abk_id_same(&id, &again));
    if (value->kind == ABK_NUMBER) { /* its canonical form is the same number */
        const char *const memory = id.heap != NULL ? id.heap : id.small;
        const abk_value text = {.at = memory + (id.shared ? 0 : id.raw_len),
                                .len = id.canon_len, .kind = ABK_NUMBER, .escaped = true};
        MUST(abk_id_make(&canon, &text) == ABK_OK && abk_id_same(&id, &canon));
        abk_id_free(&canon);
        const int64_t number = abk_id_number(value);
        char digits[24];
        snprintf(digits, sizeof digits, "%lld", (long long)number);
        MUST(number == -1 || (strlen(digits) <= raw.len && number <= INT64_C(1) << 53));
    }
    abk_id_free(&again);
    abk_id_free(&id);
}

static void check_salvage(const char *line, size_t len)
{
    const size_t half = len / 2;
    char *prefix = flush_copy(line, half), *suffix = flush_copy(line + half, len - half);
    bool none;
    const abk_value id = abk_salvage_id((abk_text){prefix, (uint32_t)half},
                                        (abk_text){suffix, (uint32_t)(len - half)}, &none);
    if (id.kind != ABK_ABSENT)
        check_id(&id);
    free(prefix);
    free(suffix);
}

static void check_line(const char *data, size_t size)
{
    char *line = flush_copy(data, size);
    abk_message m;
    abk_id_key id;
    const int result = abk_scan(line, size, &m);
    MUST(result == ABK_OK || result == ABK_AGAIN || result == ABK_EPROTO);
    MUST((result == ABK_EPROTO) == (m.reason != NULL));
    if (result == ABK_OK) {
        MUST(size < 2 || memchr(line, '\n', size - 1) == NULL);
        check_ranges(line, size, &m);
        check_cuts(line, size, &m);
        check_unrepeat(line, size, &m);
        if (m.id.kind != ABK_ABSENT)
            check_id(&m.id);
    } else {
        char *out = flush_copy(line, size);
        MUST(abk_unrepeat(line, size, out) == size);
        free(out);
    }
    check_salvage(line, size);
    if (abk_id_parse(&id, line, size) == ABK_OK)
        abk_id_free(&id);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *line = (const char *)data, *const end = line + size;
    check_line(line, size);
    while (line < end) { /* the files of the corpus hold many */
        const char *const newline = memchr(line, '\n', (size_t)(end - line));
        const char *const next = newline == NULL ? end : newline + 1;
        if ((size_t)(next - line) < size)
            check_line(line, (size_t)(next - line));
        line = next;
    }
    return 0;
}
