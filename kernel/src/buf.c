/* Bytes in one piece, and JSON text: see buf.h. */
#include "buf.h"

#include <stdio.h>

enum { SMALLEST = 512 };

int abk_buf_reserve(abk_buf *buf, size_t more)
{
    const size_t len = abk_buf_len(buf);
    if (buf->cap - buf->tail >= more)
        return ABK_OK;
    if (buf->cap - len >= more && buf->head >= len) { /* each byte moves once for one that left */
        memcpy(buf->data, buf->data + buf->head, len);
    } else {
        size_t cap = buf->cap < SMALLEST ? SMALLEST : buf->cap * 2;
        while (cap - len < more)
            cap *= 2;
        char *data = abk_realloc(NULL, cap);
        if (data == NULL)
            return ABK_ENOMEM;
        if (len > 0)
            memcpy(data, buf->data + buf->head, len);
        abk_free(buf->data);
        buf->data = data;
        buf->cap = cap;
    }
    buf->head = 0;
    buf->tail = len;
    return ABK_OK;
}

void abk_buf_filled(abk_buf *buf, size_t len)
{
    buf->tail += len;
    if (abk_buf_len(buf) > buf->peak)
        buf->peak = abk_buf_len(buf);
}

int abk_buf_append(abk_buf *buf, const char *at, size_t len)
{
    if (buf->cap - buf->tail < len && abk_buf_reserve(buf, len) < 0) {
        buf->failed = true;
        return ABK_ENOMEM;
    }
    if (len > 0)
        memcpy(buf->data + buf->tail, at, len);
    abk_buf_filled(buf, len);
    return ABK_OK;
}

void abk_buf_drop(abk_buf *buf, size_t len)
{
    buf->head += len;
    buf->base += len;
    if (buf->head == buf->tail)
        buf->head = buf->tail = 0;
}

void abk_buf_clear(abk_buf *buf)
{
    abk_buf_drop(buf, abk_buf_len(buf));
    buf->failed = false;
}

void abk_buf_free(abk_buf *buf)
{
    abk_free(buf->data);
    *buf = (abk_buf){0};
}

void abk_buf_settle(abk_buf *buf, size_t keep)
{
    const size_t len = abk_buf_len(buf);
    const size_t need = buf->peak > keep ? buf->peak : keep;
    buf->peak = len;
    if (buf->cap / 4 < need || buf->cap <= SMALLEST)
        return;
    if (need == 0) {
        abk_free(buf->data);
        buf->data = NULL;
        buf->cap = buf->head = buf->tail = 0;
        return;
    }
    size_t cap = SMALLEST;
    while (cap < need)
        cap *= 2;
    char *data = abk_realloc(NULL, cap);
    if (data == NULL)
        return; /* then it stays large */
    if (len > 0)
        memcpy(data, buf->data + buf->head, len);
    abk_free(buf->data);
    buf->data = data;
    buf->cap = cap;
    buf->head = 0;
    buf->tail = len;
}

/* --- JSON ------------------------------------------------------------------------------------ */

void abk_out(abk_buf *buf, const char *text)
{
    if (!buf->failed)
        abk_buf_append(buf, text, strlen(text));
}

void abk_out_format(abk_buf *buf, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    const int len = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!buf->failed && len > 0)
        abk_buf_append(buf, text, (size_t)len < sizeof text ? (size_t)len : sizeof text - 1);
}

/* The bytes of a character that is not ASCII, 0 where it is not UTF-8 (RFC 3629). */
static unsigned wide_char(const unsigned char *p, size_t left)
{
    const unsigned char first = p[0];
    const unsigned size = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (first < 0xc2 || first > 0xf4 || left < size)
        return 0;
    for (unsigned i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    if ((first == 0xe0 && p[1] < 0xa0) || (first == 0xed && p[1] > 0x9f) ||
        (first == 0xf0 && p[1] < 0x90) || (first == 0xf4 && p[1] > 0x8f))
        return 0;
    return size;
}

/* Length of the UTF-8 character that begins here; 0 where none does. */
static size_t character(const unsigned char *at, size_t left)
{
    return at[0] < 0x80 ? 1 : wide_char(at, left);
}

bool abk_is_utf8(const char *at, size_t len)
{
    size_t i = 0;
    while (i < len) {
        uint64_t word = UINT64_C(0x8080808080808080);
        if (len - i >= sizeof word)
            memcpy(&word, at + i, sizeof word);
        if ((word & UINT64_C(0x8080808080808080)) == 0) {
            i += sizeof word;
        } else if ((unsigned char)at[i] < 0x80) {
            i++;
        } else {
            const unsigned size = wide_char((const unsigned char *)at + i, len - i);
            if (size == 0)
                return false;
            i += size;
        }
    }
    return true;
}

void abk_out_string(abk_buf *buf, const char *at, size_t len)
{
    abk_out(buf, "\"");
    size_t i = 0;
    size_t plain = 0; /* where the run begins that goes out as it is */
    while (i < len && !buf->failed) {
        const unsigned char byte = (unsigned char)at[i];
        const size_t step = character((const unsigned char *)at + i, len - i);
        if (step > 0 && byte >= 0x20 && byte != '"' && byte != '\\') {
            i += step;
            continue;
        }
        abk_buf_append(buf, at + plain, i - plain);
        if (step == 0)
            abk_out_format(buf, "\\\\x%02x", (unsigned)byte);
        else if (byte == '"' || byte == '\\')
            abk_out_format(buf, "\\%c", byte);
        else if (byte == '\n' || byte == '\t')
            abk_out(buf, byte == '\n' ? "\\n" : "\\t");
        else
            abk_out_format(buf, "\\u%04x", (unsigned)byte);
        plain = ++i;
    }
    if (!buf->failed && plain < len) /* at may be NULL where len is 0 */
        abk_buf_append(buf, at + plain, len - plain);
    abk_out(buf, "\"");
}

static void name_member(abk_buf *buf, const char *name)
{
    const size_t len = abk_buf_len(buf);
    const bool first = len > 0 && buf->data[buf->tail - 1] == '{';
    abk_out_format(buf, "%s\"%s\":", first ? "" : ",", name);
}

void abk_out_member(abk_buf *buf, const char *name, const char *text)
{
    name_member(buf, name);
    if (text == NULL)
        abk_out(buf, "null");
    else
        abk_out_string(buf, text, strlen(text));
}

void abk_out_number(abk_buf *buf, const char *name, int64_t number)
{
    name_member(buf, name);
    abk_out_format(buf, "%lld", (long long)number);
}

/* No %f: a locale may have it write a comma. */
void abk_out_seconds(abk_buf *buf, const char *name, uint64_t ns)
{
    name_member(buf, name);
    abk_out_format(buf, "%llu.%06llu", (unsigned long long)(ns / ABK_S),
                   (unsigned long long)(ns % ABK_S / 1000));
}
