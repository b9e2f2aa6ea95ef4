/* JSON documents: see json.h. */
#include "json.h"
#include "map.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct parser {
    abk_arena *arena;
    const char *begin, *at, *end;
    abk_error *error;
    int depth;
    uint64_t seed; /* of the names of members */
} parser;

static bool fail(parser *self, const char *what)
{
    unsigned line = 1;
    const char *start = self->begin;
    for (const char *p = self->begin; p < self->at; p++) {
        if (*p == '\n') {
            line++;
            start = p + 1;
        }
    }
    abk_fail(self->error, ABK_EINVAL, 0, "not valid JSON: %s (line %u, column %u)", what, line,
             (unsigned)(self->at - start) + 1);
    return false;
}

static bool no_memory(parser *self)
{
    abk_fail(self->error, ABK_ENOMEM, 0, "out of memory");
    return false;
}

static void blanks(parser *self)
{
    while (self->at < self->end &&
           (*self->at == ' ' || *self->at == '\t' || *self->at == '\n' || *self->at == '\r'))
        self->at++;
}

static bool next_is(const parser *self, char c) { return self->at < self->end && *self->at == c; }

static int hex4(const char *at, const char *end)
{
    int value = 0;
    if (end - at < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        const char c = at[i];
        const int digit = c >= '0' && c <= '9'   ? c - '0'
                          : c >= 'a' && c <= 'f' ? c - 'a' + 10
                          : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

static char *put_utf8(char *to, int code)
{
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

static char *put_byte(char *to, int code)
{
    *to++ = (char)(code & 0xFF);
    return to;
}

/* The character of a \u escape; self->at is behind the u. -1: refused. */
static int escaped(parser *self)
{
    int code = hex4(self->at, self->end);
    if (code < 0) {
        fail(self, "\\u needs four hexadecimal digits");
        return -1;
    }
    self->at += 4;
    if (code >= 0xD800 && code < 0xDC00 && self->end - self->at >= 6 && self->at[0] == '\\' &&
        self->at[1] == 'u') {
        const int low = hex4(self->at + 2, self->end);
        if (low >= 0xDC00 && low < 0xE000) {
            self->at += 6;
            return 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        }
    }
    if (code >= 0xDC80 && code < 0xDD00)
        return code; /* a byte that is no text, as Python writes those of paths */
    if (code >= 0xD800 && code < 0xE000) {
        fail(self, "half of a surrogate pair");
        return -1;
    }
    return code;
}

static bool read_string(parser *self, const char **text, uint32_t *len)
{
    static const char plain[] = "\"\\/bfnrt";
    static const char meant[] = "\"\\/\b\f\n\r\t";
    const char *close = ++self->at;
    while (close < self->end && *close != '"')
        close += *close == '\\' ? 2 : 1;
    if (close >= self->end)
        return fail(self, "a string without its end");
    if (!abk_is_utf8(self->at, (size_t)(close - self->at))) /* escapes may make bytes that are not */
        return fail(self, "a string that is not UTF-8");
    char *to = abk_arena_take(self->arena, (size_t)(close - self->at) + 1);
    if (to == NULL)
        return no_memory(self);
    *text = to;
    while (*self->at != '"') {
        const char c = *self->at++;
        if ((unsigned char)c < 0x20) {
            self->at--;
            return fail(self, "a control character in a string");
        }
        if (c != '\\') {
            *to++ = c;
            continue;
        }
        const char kind = *self->at++;
        const char *found = kind == '\0' ? NULL : strchr(plain, kind);
        if (found != NULL) {
            *to++ = meant[found - plain];
        } else if (kind == 'u') {
            const int code = escaped(self);
            if (code < 0)
                return false;
            const bool raw = code >= 0xDC80 && code < 0xDD00;
            to = raw ? put_byte(to, code) : put_utf8(to, code);
        } else {
            self->at -= 2;
            return fail(self, "an escape that is none");
        }
    }
    self->at++;
    *to = '\0';
    *len = (uint32_t)(to - *text);
    return true;
}

static const char *digits(const char *at, const char *end)
{
    while (at < end && *at >= '0' && *at <= '9')
        at++;
    return at;
}

static bool read_number(parser *self, abk_json *value)
{
    char text[64];
    const char *from = self->at;
    const char *at = from + (*from == '-');
    const char *whole = digits(at, self->end);
    if (whole == at || (*at == '0' && whole - at > 1))
        return fail(self, "a number that is none");
    at = whole;
    if (at < self->end && *at == '.') {
        const char *part = digits(at + 1, self->end);
        if (part == at + 1)
            return fail(self, "a number that is none");
        at = part;
    }
    if (at < self->end && (*at == 'e' || *at == 'E')) {
        const char *sign = at + 1 + (at + 1 < self->end && (at[1] == '+' || at[1] == '-'));
        const char *part = digits(sign, self->end);
        if (part == sign)
            return fail(self, "a number that is none");
        at = part;
    }
    if ((size_t)(at - from) >= sizeof text)
        return fail(self, "a number with too many digits");
    memcpy(text, from, (size_t)(at - from));
    text[at - from] = '\0';
    value->kind = ABK_NUMBER;
    value->number = abk_number(text);
    if (value->number > DBL_MAX || value->number < -DBL_MAX)
        return fail(self, "a number that is out of range");
    self->at = at;
    if (at == whole && value->number > -9.2e18 && value->number < 9.2e18) {
        value->integer = strtoll(text, NULL, 10);
        value->integral = true;
    }
    value->text = abk_arena_copy(self->arena, from, (size_t)(at - from));
    value->len = (uint32_t)(at - from);
    return value->text != NULL || no_memory(self);
}

static bool read_value(parser *self, abk_json *value);

static bool same_name(const void *item, const void *key)
{
    const abk_json *member = item;
    const abk_json *other = key;
    return member->name_len == other->name_len && memcmp(member->name, other->name, other->name_len) == 0;
}

/* Take note of the name of a member; false: it stands there twice, or there is no memory. */
static bool note_name(parser *self, abk_map *names, abk_json *member)
{
    const uint64_t hash = abk_hash(member->name, member->name_len, self->seed);
    if (abk_map_find(names, hash, same_name, member) != NULL) {
        char text[128];
        snprintf(text, sizeof text, "the member '%.80s' stands there twice", member->name);
        return fail(self, text);
    }
    return abk_map_add(names, hash, member) == ABK_OK || no_memory(self);
}

static bool read_items(parser *self, abk_json *value, char close, abk_map *names)
{
    abk_json **last = &value->first;
    self->at++;
    blanks(self);
    if (next_is(self, close)) {
        self->at++;
        return true;
    }
    for (;;) {
        abk_json *item = abk_arena_take(self->arena, sizeof *item);
        if (item == NULL)
            return no_memory(self);
        blanks(self);
        if (close == '}') {
            if (!next_is(self, '"'))
                return fail(self, "expected a name in quotes");
            if (!read_string(self, &item->name, &item->name_len))
                return false;
            blanks(self);
            if (!next_is(self, ':'))
                return fail(self, "expected ':'");
            self->at++;
        }
        *last = item;
        if (close == '}' && !note_name(self, names, item))
            return false;
        if (!read_value(self, item))
            return false;
        last = &item->next;
        value->len++;
        blanks(self);
        if (next_is(self, close)) {
            self->at++;
            return true;
        }
        if (!next_is(self, ','))
            return fail(self, close == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        self->at++;
    }
}

static bool read_word(parser *self, const char *word)
{
    const size_t len = strlen(word);
    if ((size_t)(self->end - self->at) < len || memcmp(self->at, word, len) != 0)
        return fail(self, "expected a value");
    self->at += len;
    return true;
}

static bool read_value(parser *self, abk_json *value)
{
    blanks(self);
    if (self->at == self->end)
        return fail(self, "expected a value");
    const char c = *self->at;
    if (c == '{' || c == '[') {
        if (++self->depth > ABK_JSON_DEPTH)
            return fail(self, "too deeply nested");
        value->kind = c == '{' ? ABK_OBJECT : ABK_ARRAY;
        abk_map names = {0};
        const bool done = read_items(self, value, c == '{' ? '}' : ']', &names);
        abk_map_free(&names);
        self->depth--;
        return done;
    }
    if (c == '"') {
        value->kind = ABK_STRING;
        return read_string(self, &value->text, &value->len);
    }
    if (c == '-' || (c >= '0' && c <= '9'))
        return read_number(self, value);
    value->kind = c == 'n' ? ABK_NULL : ABK_BOOL;
    value->truth = c == 't';
    return read_word(self, c == 'n' ? "null" : c == 't' ? "true" : "false");
}

abk_json *abk_json_read(abk_arena *arena, const char *at, size_t len, abk_error *error)
{
    at = len == 0 ? "" : at;
    parser self = {.arena = arena, .begin = at, .at = at, .end = at + len, .error = error,
                   .seed = abk_random()};
    abk_json *value = abk_arena_take(arena, sizeof *value);
    if (value == NULL) {
        no_memory(&self);
        return NULL;
    }
    if (!read_value(&self, value))
        return NULL;
    blanks(&self);
    if (self.at < self.end) {
        fail(&self, "something follows the document");
        return NULL;
    }
    return value;
}

bool abk_json_says(const abk_json *value, const char *text)
{
    return value->kind == ABK_STRING && value->len == strlen(text) &&
           memcmp(value->text, text, value->len) == 0;
}

bool abk_json_is_named(const abk_json *member, const char *name)
{
    return member->name_len == strlen(name) && memcmp(member->name, name, member->name_len) == 0;
}

const abk_json *abk_json_member(const abk_json *object, const char *name)
{
    if (object == NULL || object->kind != ABK_OBJECT)
        return NULL;
    for (const abk_json *item = object->first; item != NULL; item = item->next) {
        if (abk_json_is_named(item, name))
            return item;
    }
    return NULL;
}

void abk_json_write(abk_buf *out, const abk_json *value)
{
    switch (value->kind) {
    case ABK_NULL: abk_out(out, "null"); break;
    case ABK_BOOL: abk_out(out, value->truth ? "true" : "false"); break;
    case ABK_NUMBER:
        if (!out->failed)
            abk_buf_append(out, value->text, value->len);
        break;
    case ABK_STRING: abk_out_string(out, value->text, value->len); break;
    default: {
        const bool object = value->kind == ABK_OBJECT;
        abk_out(out, object ? "{" : "[");
        for (const abk_json *item = value->first; item != NULL; item = item->next) {
            abk_out(out, item == value->first ? "" : ",");
            if (object) {
                abk_out_string(out, item->name, item->name_len);
                abk_out(out, ":");
            }
            abk_json_write(out, item);
        }
        abk_out(out, object ? "}" : "]");
        break;
    }
    }
}
