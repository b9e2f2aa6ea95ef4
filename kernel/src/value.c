/* What is done with values that the scanner found: decode, compare, cut them out. See scan.h. */
#include "scan.h"

static inline bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

/* --- text ------------------------------------------------------------------------------------ */

int32_t abk_hex4(const char *p, const char *end)
{
    if (end - p < 4)
        return -1;
    int32_t unit = 0;
    for (int i = 0; i < 4; i++) {
        const char c = p[i], letter = (char)(c | 0x20);
        if (c >= '0' && c <= '9')
            unit = unit * 16 + (c - '0');
        else if (letter >= 'a' && letter <= 'f')
            unit = unit * 16 + (letter - 'a' + 10);
        else
            return -1;
    }
    return unit;
}

static char *put_char(char *out, uint32_t code)
{
    if (code < 0x80) {
        *out++ = (char)code;
        return out;
    }
    if (code < 0x800) {
        *out++ = (char)(0xc0 | code >> 6);
    } else {
        if (code < 0x10000) {
            *out++ = (char)(0xe0 | code >> 12);
        } else {
            *out++ = (char)(0xf0 | code >> 18);
            *out++ = (char)(0x80 | (code >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (code >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (code & 0x3f));
    return out;
}

/* Decode one escape, *p at its backslash; returns what is behind the bytes written. */
static char *put_escape(const char **p, const char *end, char *out)
{
    static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
    const char *at = *p;
    const int32_t unit = end - at >= 2 && at[1] == 'u' ? abk_hex4(at + 2, end) : -1;
    if (unit < 0) { /* or one that no scanned string has, which stays as it is */
        const char *simple = end - at >= 2 && at[1] != '\0' ? strchr(from, at[1]) : NULL;
        const bool escape = end - at >= 2 && at[1] != 'u';
        *out = simple != NULL ? to[simple - from] : escape ? at[1] : '\\';
        *p = at + (escape ? 2 : 1);
        return out + 1;
    }
    *p = at += 6;
    if ((unit & 0xfc00) == 0xd800 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
        const int32_t low = abk_hex4(at + 2, end);
        if (low >= 0xdc00 && low <= 0xdfff) {
            const uint32_t high_bits = (uint32_t)unit & 0x3ff, low_bits = (uint32_t)low & 0x3ff;
            *p = at + 6;
            return put_char(out, 0x10000 + (high_bits << 10 | low_bits));
        }
    }
    return put_char(out, (uint32_t)unit);
}

size_t abk_decode(const abk_value *value, char *out)
{
    const char *p = value->at, *const end = p + value->len;
    char *to = out;
    if (!value->escaped) {
        memcpy(out, p, value->len);
        return value->len;
    }
    while (p < end) {
        if (*p == '\\')
            to = put_escape(&p, end, to);
        else
            *to++ = *p++;
    }
    return (size_t)(to - out);
}

bool abk_value_is(const abk_value *value, abk_text text)
{
    if (value->kind != ABK_STRING)
        return false;
    if (!value->escaped)
        return abk_same((abk_text){value->at, value->len}, text);
    const char *p = value->at, *const end = p + value->len;
    uint32_t i = 0;
    while (p < end) {
        char bytes[4];
        size_t count = 1;
        if (*p == '\\')
            count = (size_t)(put_escape(&p, end, bytes) - bytes);
        else
            bytes[0] = *p++;
        if (text.len - i < count || memcmp(text.at + i, bytes, count) != 0)
            return false;
        i += (uint32_t)count;
    }
    return i == text.len;
}

/* --- members that go ------------------------------------------------------------------------- */

abk_text abk_cut(const char *line, size_t len, const abk_value *value)
{
    if (value->kind == ABK_ABSENT)
        return (abk_text){NULL, 0};
    const char *from = value->member, *to = from + value->member_len, *p = to;
    while (p < line + len && is_blank(*p))
        p++;
    if (p < line + len && *p == ',')
        return (abk_text){from, (uint32_t)(p + 1 - from)};
    for (p = from; p > line && is_blank(p[-1]);)
        p--;
    if (p > line && p[-1] == ',')
        from = p - 1;
    return (abk_text){from, (uint32_t)(to - from)};
}

uint32_t abk_cut_both(const char *line, size_t len, const abk_value *a, const abk_value *b,
                      abk_text cuts[2])
{
    if (a->kind == ABK_ABSENT || (b->kind != ABK_ABSENT && b->member < a->member)) {
        const abk_value *const other = a;
        a = b;
        b = other;
    }
    cuts[0] = abk_cut(line, len, a);
    cuts[1] = abk_cut(line, len, b);
    if (cuts[0].len == 0 || cuts[1].len == 0)
        return cuts[0].len == 0 ? 0 : 1;
    const char *p = cuts[0].at + cuts[0].len; /* b is behind a: this is behind a comma */
    while (p < b->member && is_blank(*p))
        p++;
    if (p != b->member)
        return 2;
    abk_value both = *a; /* neighbours go as one */
    both.member_len = (uint32_t)(b->member + b->member_len - a->member);
    cuts[0] = abk_cut(line, len, &both);
    return 1;
}
