/* A growing buffer of bytes that is filled at its end and emptied from its front, and the writing of
 * JSON into one.
 *
 * The bytes stand in one piece, so that a scanner and one write(2) see all of them; what is left
 * moves to the front only when the end is reached. base counts the bytes that ever left.
 */
#ifndef ABK_BUF_H
#define ABK_BUF_H

#include "base.h"

typedef struct abk_buf {
    char *data;
    size_t head; /* of what is there */
    size_t tail;
    size_t cap;
    size_t peak;   /* most that was there since the last abk_buf_settle() */
    uint64_t base; /* position in the stream of the byte at head */
    bool failed;   /* an append found no memory; stays until abk_buf_clear() */
} abk_buf;

static inline size_t abk_buf_len(const abk_buf *buf) { return buf->tail - buf->head; }
static inline const char *abk_buf_at(const abk_buf *buf)
{
    return buf->head == 0 ? buf->data : buf->data + buf->head; /* NULL + 0 is undefined */
}

/* Make room for so many bytes more at the end; ABK_ENOMEM leaves all as it was. */
int abk_buf_reserve(abk_buf *buf, size_t more);
int abk_buf_append(abk_buf *buf, const char *at, size_t len);
/* Take note that so many bytes were put behind the end, or taken from the front. */
void abk_buf_filled(abk_buf *buf, size_t len);
void abk_buf_drop(abk_buf *buf, size_t len);
void abk_buf_clear(abk_buf *buf);
void abk_buf_free(abk_buf *buf);
/* Give back memory that was not needed since the last call, down to keep bytes. */
void abk_buf_settle(abk_buf *buf, size_t keep);

/* JSON text. They do nothing once the buffer has failed; the caller looks at that in the end. */
void abk_out(abk_buf *buf, const char *text);
void abk_out_format(abk_buf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A string with its quotes; a byte that is no UTF-8 is shown as the text \xe9. */
void abk_out_string(abk_buf *buf, const char *at, size_t len);
bool abk_is_utf8(const char *at, size_t len);
/* ,"name":"text" or ,"name":number; the first member of an object leaves its comma out. */
void abk_out_member(abk_buf *buf, const char *name, const char *text);
void abk_out_number(abk_buf *buf, const char *name, int64_t number);
void abk_out_seconds(abk_buf *buf, const char *name, uint64_t ns); /* to the microsecond */

#endif
