/* The bytes that wait for one pipe: whole frames in order, of which some may have been withdrawn.
 *
 * A withdrawn frame leaves a hole that is never written. Positions count the bytes of the stream,
 * holes included, so that "was anything of it written" is one comparison.
 */
#ifndef ABK_OUTBOX_H
#define ABK_OUTBOX_H

#include "buf.h"

typedef struct abk_hole {
    uint64_t from;
    uint64_t to;
} abk_hole;

typedef struct abk_outbox {
    abk_buf buf;
    abk_hole *holes; /* in order, apart from each other, none before buf.base */
    uint32_t hole_count, hole_cap;
    uint64_t hole_bytes;
} abk_outbox;

/* Bytes left to write. */
static inline uint64_t abk_outbox_size(const abk_outbox *out)
{
    return abk_buf_len(&out->buf) - out->hole_bytes;
}

/* Position of the next frame to be appended. */
static inline uint64_t abk_outbox_end(const abk_outbox *out)
{
    return out->buf.base + abk_buf_len(&out->buf);
}

/* Whether a byte of the frame that begins there was written. */
static inline bool abk_outbox_wrote(const abk_outbox *out, uint64_t start)
{
    return out->buf.base > start;
}

/* Take out a frame of which no byte was written; ABK_ENOMEM leaves it in. */
int abk_outbox_withdraw(abk_outbox *out, uint64_t start, uint32_t len);

/* What is to be written next, at most max parts; how many there are. */
int abk_outbox_parts(const abk_outbox *out, struct iovec *parts, int max);

/* So many bytes of these were written. */
void abk_outbox_wrote_bytes(abk_outbox *out, uint64_t written);

void abk_outbox_clear(abk_outbox *out);
void abk_outbox_free(abk_outbox *out);

#endif
