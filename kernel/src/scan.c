/* The scanner: see scan.h. What is done with values is in value.c, ids are in id.c.
 *
 * A line is trimmed first and must then end in '}'. Strings apart, which end with a quote, no token
 * goes on beyond a '}'. So the byte behind a token can be read without asking whether there is one;
 * only the end of a nested object has to look.
 */
#include "scan.h"

#include "buf.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Compilers that decide for themselves make short lines a third slower. */
#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

/* Whether the first byte of a word in memory is its lowest one. */
#define LITTLE_ENDIAN_WORDS (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)

typedef struct scan {
    const char *begin; /* as many bytes before end as can be read */
    const char *end;
    const char *reason;
} scan;

static const char *fail(scan *s, const char *reason)
{
    s->reason = reason;
    return NULL;
}

/* A line's own newline is trimmed before; no other is let through, so that one line stays one. */
static inline bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r';
}

static inline const char *blanks(const char *p)
{
    while (is_blank(*p))
        p++;
    return p;
}

static inline bool is_digit(char c)
{
    return (unsigned char)(c - '0') < 10;
}

/* --- strings --------------------------------------------------------------------------------- */

/* What ends a run of ordinary bytes in a string: 1 for control characters, quote and backslash. */
static const uint8_t stops[256] = {
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, /* the control characters */
    1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, ['"'] = 1, ['\\'] = 1,
};

#ifdef __SSE2__
static inline __m128i stops_of(const char *p)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    const __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(bytes, _mm_set1_epi8(0x1f)), bytes);
    const __m128i quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('"'));
    const __m128i backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8('\\'));
    return _mm_or_si128(control, _mm_or_si128(quote, backslash));
}

/* The blocks of 64 bytes of a long string that hold nothing but ordinary bytes. */
static const char *long_run(const char *p, const char *end)
{
    while (end - p >= 64) {
        const __m128i front = _mm_or_si128(stops_of(p), stops_of(p + 16));
        const __m128i back = _mm_or_si128(stops_of(p + 32), stops_of(p + 48));
        if (_mm_movemask_epi8(_mm_or_si128(front, back)) != 0)
            break;
        p += 64;
    }
    return p;
}
#endif

/* Eight bytes at once: the high bit of each that is a stop, and maybe of some behind the first. */
static inline uint64_t stops_of_word(const char *p)
{
    const uint64_t ones = UINT64_C(0x0101010101010101), high = ones << 7;
    uint64_t word;
    memcpy(&word, p, sizeof word);
    const uint64_t quote = word ^ (ones * '"'), backslash = word ^ (ones * '\\');
    const uint64_t found = ((quote - ones) & ~quote) | ((backslash - ones) & ~backslash) |
                           ((word - ones * ' ') & ~word);
    return found & high;
}

/* Go to the next stop, or to the end. */
static inline const char *run(const char *p, const char *end)
{
#ifdef __SSE2__
    for (unsigned block = 0; end - p >= 16; block++) {
        const int found = _mm_movemask_epi8(stops_of(p));
        if (found != 0)
            return p + __builtin_ctz((unsigned)found);
        p += 16;
        if (block == 2)
            p = long_run(p, end);
    }
#endif
    for (; end - p >= 8; p += 8) {
        const uint64_t found = stops_of_word(p);
        if (found != 0 && LITTLE_ENDIAN_WORDS)
            return p + (__builtin_ctzll(found) >> 3);
        if (found != 0)
            break;
    }
    while (p < end && !stops[(unsigned char)*p])
        p++;
    return p;
}

/* p is at a backslash. NULL where what follows is no escape, or half of a surrogate pair. */
static const char *skip_escape(const char *p, const char *end)
{
    if (end - p < 2)
        return NULL;
    if (p[1] != 'u') /* the NUL at the end of the text is none of them */
        return p[1] != '\0' && strchr("\"\\/bfnrt", p[1]) != NULL ? p + 2 : NULL;
    const int32_t unit = abk_hex4(p + 2, end);
    if (unit < 0 || (unit & 0xfc00) == 0xdc00)
        return NULL;
    p += 6;
    if ((unit & 0xfc00) != 0xd800)
        return p;
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return NULL;
    const int32_t low = abk_hex4(p + 2, end);
    return low >= 0xdc00 && low <= 0xdfff ? p + 6 : NULL;
}

static NOINLINE const char *skip_long_string(scan *s, const char *p, bool *escaped)
{
    for (;;) {
        p = run(p, s->end);
        if (p == s->end)
            return fail(s, "a string does not end");
        if (*p == '"')
            return p;
        if (*p != '\\')
            return fail(s, "a control character in a string");
        *escaped = true;
        p = skip_escape(p, s->end);
        if (p == NULL)
            return fail(s, "a wrong escape in a string");
    }
}

/* p is behind the opening quote; returns the closing one. Most strings are short and plain. */
static INLINE const char *skip_string(scan *s, const char *p, bool *escaped)
{
#ifdef __SSE2__
    const ptrdiff_t left = s->end - p;
    unsigned found = 0;
    if (left >= 16)
        found = (unsigned)_mm_movemask_epi8(stops_of(p));
    else if (s->end - s->begin >= 16)
        found = (unsigned)_mm_movemask_epi8(stops_of(s->end - 16)) >> (16 - left);
    if (found != 0 && p[__builtin_ctz(found)] == '"')
        return p + __builtin_ctz(found);
#endif
    return skip_long_string(s, p, escaped);
}

/* --- values ---------------------------------------------------------------------------------- */

static inline const char *digits(const char *p, const char *end)
{
    while (p < end && is_digit(*p))
        p++;
    return p;
}

/* more: whether it is more than a run of digits. */
static inline const char *skip_number(const char *p, const char *end, bool *more)
{
    *more = *p == '-';
    if (*p == '-')
        p++;
    const char *next = p < end && *p == '0' ? p + 1 : digits(p, end);
    if (next == p)
        return NULL;
    p = next;
    if (p < end && *p == '.') {
        *more = true;
        next = digits(p + 1, end);
        if (next == p + 1)
            return NULL;
        p = next;
    }
    if (p < end && (*p | 0x20) == 'e') {
        *more = true;
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        next = digits(p, end);
        if (next == p)
            return NULL;
        p = next;
    }
    return p;
}

/* Anything but an object or an array. */
static INLINE const char *skip_scalar(scan *s, const char *p, abk_value *value)
{
    const size_t left = (size_t)(s->end - p);
    const char *next = NULL;
    value->at = p;
    switch (*p) {
    case '"':
        value->kind = ABK_STRING;
        value->at = p + 1;
        next = skip_string(s, p + 1, &value->escaped);
        if (next == NULL)
            return NULL;
        value->len = (uint32_t)(next - value->at);
        return next + 1;
    case 't':
    case 'n':
        value->kind = *p == 't' ? ABK_BOOL : ABK_NULL;
        next = left >= 4 && memcmp(p, *p == 't' ? "true" : "null", 4) == 0 ? p + 4 : NULL;
        break;
    case 'f':
        value->kind = ABK_BOOL;
        next = left >= 5 && memcmp(p, "false", 5) == 0 ? p + 5 : NULL;
        break;
    default:
        value->kind = ABK_NUMBER;
        next = skip_number(p, s->end, &value->escaped);
        break;
    }
    if (next == NULL)
        return fail(s, "a wrong value");
    value->len = (uint32_t)(next - p);
    return next;
}

/* From the quote of a name to its value. */
static INLINE const char *skip_name(scan *s, const char *p, abk_value *name)
{
    if (*p != '"')
        return fail(s, "a name is missing");
    name->at = p + 1;
    name->escaped = false;
    p = skip_string(s, p + 1, &name->escaped);
    if (p == NULL)
        return NULL;
    name->len = (uint32_t)(p - name->at);
    p = blanks(p + 1);
    if (*p != ':')
        return fail(s, "a colon is missing");
    return blanks(p + 1);
}

/* An object or an array inside the line's own object. */
static const char *skip_nested(scan *s, const char *p)
{
    char open[ABK_MAX_DEPTH - 1];
    size_t depth = 0;
    abk_value ignored;
    for (;;) { /* a value begins here */
        if (*p == '{' || *p == '[') {
            const char opener = *p;
            if (depth == sizeof open)
                return fail(s, "nested too deep");
            open[depth++] = opener;
            p = blanks(p + 1);
            if (*p != opener + 2) { /* in ASCII the closing ones are two behind */
                if (opener == '{' && (p = skip_name(s, p, &ignored)) == NULL)
                    return NULL;
                continue;
            }
        } else if ((p = skip_scalar(s, p, &ignored)) == NULL) {
            return NULL;
        }
        for (;;) { /* a value ended here, or an empty one is about to */
            p = blanks(p);
            const char opener = open[depth - 1];
            if (*p == ',') {
                p = blanks(p + 1);
                if (opener == '{' && (p = skip_name(s, p, &ignored)) == NULL)
                    return NULL;
                break;
            }
            if (*p != opener + 2)
                return fail(s, "a comma or the end of an object or array is missing");
            if (++p == s->end)
                return fail(s, "the object does not end");
            if (--depth == 0)
                return p;
        }
    }
}

/* From a member's value, p, to what follows it. */
static INLINE const char *skip_value(scan *s, const char *member, const char *p, abk_value *value)
{
    value->escaped = false;
    if (*p == '{' || *p == '[') {
        value->at = p;
        value->kind = *p == '{' ? ABK_OBJECT : ABK_ARRAY;
        p = skip_nested(s, p);
        if (p == NULL)
            return NULL;
        value->len = (uint32_t)(p - value->at);
    } else {
        p = skip_scalar(s, p, value);
        if (p == NULL)
            return NULL;
    }
    value->member = member;
    value->member_len = (uint32_t)(p - member);
    return blanks(p);
}

static const char *next_member(scan *s, const char *p, abk_value *name, abk_value *value)
{
    const char *const at = skip_name(s, p, name);
    return at == NULL ? NULL : skip_value(s, p, at, value);
}

/* --- lines ----------------------------------------------------------------------------------- */

#define IS(text) (memcmp(at, (text), sizeof(text) - 1) == 0)
static inline abk_value *named(abk_message *m, const char *at, size_t len)
{
    switch (len) {
    case 2:
        return IS("id") ? &m->id : NULL;
    case 4:
        return IS("pool") ? &m->pool : NULL;
    case 5:
        return IS("error") ? &m->error : NULL;
    case 6:
        return IS("method") ? &m->method : IS("params") ? &m->params :
               IS("result") ? &m->result : NULL;
    case 9:
        return IS("sessionId") ? &m->session : NULL;
    default:
        return NULL;
    }
}
#undef IS

static abk_value *named_escaped(abk_message *m, const abk_value *name)
{
    char plain[6 * 9];
    if (name->len > sizeof plain)
        return NULL;
    return named(m, plain, abk_decode(name, plain));
}

static inline abk_value *slot_of(abk_message *m, const abk_value *name)
{
    return name->escaped ? named_escaped(m, name) : named(m, name->at, name->len);
}

static const char not_utf8[] = "id, method or sessionId is not UTF-8";

/* What is wrong with a member that has to be of a certain kind; every one counts, not the last. */
static const char *wrong_member(abk_message *m, const abk_value *slot)
{
    if (slot == &m->id) {
        if (slot->kind == ABK_NUMBER) /* 9e99 is in any case */
            return slot->len <= 4 || abk_id_fits(slot) ? NULL : "id is out of range";
        if (slot->kind != ABK_STRING)
            return slot->kind == ABK_NULL ? NULL : "id is neither number, string nor null";
    } else if (slot == &m->method) {
        if (slot->kind != ABK_STRING)
            return "method is no string";
    } else if (slot == &m->session) {
        m->odd_session |= slot->kind != ABK_STRING;
        if (slot->kind != ABK_STRING)
            return NULL;
    } else {
        return NULL;
    }
    return abk_is_utf8(slot->at, slot->len) ? NULL : not_utf8;
}

/* The members that most lines have, as most write them: without a look at each byte of the name. */
static INLINE abk_value *usual(abk_message *m, const char *p, const char *end, const char **at)
{
#define STARTS(text) (memcmp(p, (text), sizeof(text) - 1) == 0 && (*at = p + sizeof(text) - 1))
    if (end - p < 10)
        return NULL;
    return STARTS("\"id\":")       ? &m->id
           : STARTS("\"result\":") ? &m->result
           : STARTS("\"method\":") ? &m->method
           : STARTS("\"params\":") ? &m->params
                                   : NULL;
#undef STARTS
}

/* From the first name to behind the closing brace. */
static const char *scan_members(scan *s, const char *p, abk_message *m)
{
    abk_value name, ignored;
    for (;;) {
        const char *at;
        abk_value *slot = usual(m, p, s->end, &at);
        if (slot != NULL) {
            at = blanks(at);
        } else {
            at = skip_name(s, p, &name);
            if (at == NULL)
                return NULL;
            slot = slot_of(m, &name);
        }
        m->repeated |= slot != NULL && slot->kind != ABK_ABSENT;
        p = skip_value(s, p, at, slot != NULL ? slot : &ignored);
        if (p == NULL)
            return NULL;
        const char *const reason = slot != NULL ? wrong_member(m, slot) : NULL;
        if (reason != NULL) {
            m->odd_member = reason != not_utf8;
            return fail(s, reason);
        }
        if (*p == '}')
            return p + 1;
        if (*p != ',')
            return fail(s, "a comma or the end of the object is missing");
        p = blanks(p + 1);
    }
}

static const char version[] = "\"jsonrpc\":\"2.0\",";

/* A line that begins with ABK_CHUNK_START, as the most do by far that come in great numbers. */
static const char *scan_chunk(scan *s, const char *line, abk_message *m)
{
    static const char start[] = ABK_CHUNK_START, method[] = "\"method\":\"chunk\"";
    const char *const at = line + sizeof "{" - 1 + sizeof version - 1;
    m->chunk = true;
    m->method = (abk_value){.at = at + sizeof "\"method\":\"" - 1,
                            .len = sizeof "chunk" - 1,
                            .kind = ABK_STRING,
                            .member = at,
                            .member_len = sizeof method - 1};
    const char *const p = skip_value(s, at + sizeof method, line + sizeof start - 1, &m->params);
    if (p == NULL || *p == '}')
        return p == NULL ? NULL : p + 1;
    if (*p != ',')
        return fail(s, "a comma or the end of the object is missing");
    return scan_members(s, blanks(p + 1), m);
}

static const char *trimmed(const char *line, size_t len)
{
    if (len > 0 && line[len - 1] == '\n')
        len--;
    while (len > 0 && is_blank(line[len - 1]))
        len--;
    return line + len;
}

static inline bool begins(const scan *s, const char *p, const char *start, size_t len)
{
    return s->end - p > (ptrdiff_t)len && memcmp(p, start, len) == 0;
}

static int refuse(abk_message *m, const char *reason)
{
    m->reason = reason;
    return ABK_EPROTO;
}

/* One by one, since what compilers make of a memset() of this size costs more than a short line. */
static inline void clear(abk_message *m)
{
    const abk_value absent = {0};
    m->id = absent;
    m->method = absent;
    m->params = absent;
    m->result = absent;
    m->error = absent;
    m->session = absent;
    m->pool = absent;
    m->chunk = m->repeated = m->odd_session = m->odd_member = false;
    m->reason = NULL;
}

int abk_scan(const char *line, size_t len, abk_message *message)
{
    clear(message);
    if (len > UINT32_MAX)
        return refuse(message, "the line is too long");
    scan s = {.begin = line, .end = trimmed(line, len)};
    if (s.end == line)
        return ABK_AGAIN;
    const char *p = blanks(line);
    if (*p != '{')
        return refuse(message, "not a JSON object");
    if (s.end[-1] != '}')
        return refuse(message, "the object does not end, or something is behind it");
    if (begins(&s, line, ABK_CHUNK_START "{", sizeof ABK_CHUNK_START)) {
        p = scan_chunk(&s, line, message);
    } else {
        p = blanks(p + 1);
        const bool first = *p != '}';
        if (begins(&s, p, version, sizeof version - 1))
            p = blanks(p + sizeof version - 1); /* how most lines begin; a name must follow */
        p = first ? scan_members(&s, p, message) : p + 1;
    }
    if (p == NULL)
        return refuse(message, s.reason);
    if (p != s.end)
        return refuse(message, "something is behind the object");
    return ABK_OK;
}

bool abk_scan_last(const char *line, size_t len, abk_value *last)
{
    const char *const end = line + len - 1;
    scan s = {.begin = line, .end = end};
    return skip_value(&s, last->at, last->at, last) != NULL && last->at + last->len == end - 1;
}

abk_value abk_scan_id(abk_text text)
{
    abk_value value = {0};
    if (text.len == 0 || *text.at == '{' || *text.at == '[')
        return value;
    scan s = {.begin = text.at, .end = text.at + text.len};
    const bool whole = skip_scalar(&s, text.at, &value) == s.end;
    if (whole && (value.kind == ABK_NULL || (value.kind == ABK_NUMBER && abk_id_fits(&value)) ||
                  (value.kind == ABK_STRING && abk_is_utf8(value.at, value.len))))
        return value;
    return (abk_value){0};
}

bool abk_scan_path(const abk_value *object, const abk_path *path, abk_value *found)
{
    *found = *object;
    for (uint32_t i = 0; i < path->count; i++) {
        const abk_value in = *found;
        *found = (abk_value){0};
        if (in.kind != ABK_OBJECT)
            return false;
        scan s = {.begin = in.at, .end = in.at + in.len};
        for (const char *p = blanks(in.at + 1); p != NULL && *p != '}';) {
            abk_value name = {.kind = ABK_STRING}, value;
            p = next_member(&s, p, &name, &value);
            if (p != NULL && abk_value_is(&name, path->names[i]))
                *found = value;
            if (p != NULL && *p == ',')
                p = blanks(p + 1);
        }
    }
    if (path->count == 0)
        *found = (abk_value){0};
    return found->kind != ABK_ABSENT;
}

size_t abk_unrepeat(const char *line, size_t len, char *out)
{
    abk_message m;
    if (abk_scan(line, len, &m) != ABK_OK) {
        if (len > 0)
            memcpy(out, line, len);
        return len;
    }
    scan s = {.begin = line, .end = trimmed(line, len)};
    char *to = out;
    *to++ = '{';
    for (const char *p = blanks(blanks(line) + 1); p != NULL && *p != '}';) {
        abk_value name, value;
        p = next_member(&s, p, &name, &value);
        const abk_value *slot = p == NULL ? NULL : slot_of(&m, &name);
        if (p != NULL && (slot == NULL || slot->member == value.member)) {
            if (to - out > 1)
                *to++ = ',';
            memcpy(to, value.member, value.member_len);
            to += value.member_len;
        }
        if (p != NULL && *p == ',')
            p = blanks(p + 1);
    }
    *to++ = '}';
    if (line[len - 1] == '\n')
        *to++ = '\n';
    return (size_t)(to - out);
}
