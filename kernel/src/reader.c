/* Lines of an fd: see reader.h. */
#include "reader.h"

#include <errno.h>

ssize_t abk_reader_fill(abk_reader *reader, int fd, size_t least, size_t most)
{
    abk_buf *buf = &reader->buf;
    if (reader->want < least)
        reader->want = least;
    /* A long open line stays in place and gets room at its end; a short one moves to the front. */
    if (buf->cap - buf->tail < reader->want && abk_buf_reserve(buf, reader->want) < 0) {
        if (buf->cap - buf->tail == 0) {
            reader->more = true;
            return -ENOMEM;
        }
    }
    const size_t free_bytes = buf->cap - buf->tail;
    const size_t room = free_bytes < most ? free_bytes : most;
    const ssize_t got = abk_sys_read(fd, buf->data + buf->tail, room);
    reader->more = (size_t)got == room || (got < 0 && errno != EAGAIN);
    if (got < 0)
        return -errno;
    abk_buf_filled(buf, (size_t)got);
    if ((size_t)got == room && reader->want < most)
        reader->want = reader->want * 2 < most ? reader->want * 2 : most;
    return got;
}

static void skip(abk_reader *reader, size_t len)
{
    const char *at = abk_buf_at(&reader->buf);
    if (reader->skipped == 0) {
        reader->prefix_len = reader->suffix_len = 0;
        if (reader->edges == NULL)
            reader->edges = abk_alloc((size_t)3 * ABK_EDGE_BYTES);
    }
    reader->skipped += len;
    abk_buf_drop(&reader->buf, len);
    if (reader->edges == NULL)
        return;
    if (reader->prefix_len < ABK_EDGE_BYTES) {
        const size_t room = ABK_EDGE_BYTES - reader->prefix_len;
        const size_t part = len < room ? len : room;
        memcpy(reader->edges + reader->prefix_len, at, part);
        reader->prefix_len += (uint32_t)part;
    }
    const size_t part = len < ABK_EDGE_BYTES ? len : ABK_EDGE_BYTES;
    char *suffix = reader->edges + ABK_EDGE_BYTES; /* twice the room: moved only when it is full */
    if (reader->suffix_len + part > 2 * ABK_EDGE_BYTES) {
        memmove(suffix, suffix + reader->suffix_len - ABK_EDGE_BYTES, ABK_EDGE_BYTES);
        reader->suffix_len = ABK_EDGE_BYTES;
    }
    memcpy(suffix + reader->suffix_len, at + len - part, part);
    reader->suffix_len += (uint32_t)part;
}

static bool oversize(abk_reader *reader, abk_line *line)
{
    const uint32_t kept = reader->suffix_len < ABK_EDGE_BYTES ? reader->suffix_len : ABK_EDGE_BYTES;
    const char *end = reader->edges == NULL ? NULL : reader->edges + ABK_EDGE_BYTES + reader->suffix_len;
    *line = (abk_line){.at = reader->edges,
                       .len = reader->edges == NULL ? 0 : reader->prefix_len,
                       .oversize = true,
                       .size = reader->skipped,
                       .suffix = {end == NULL ? NULL : end - kept, end == NULL ? 0 : kept}};
    reader->skipped = 0;
    return true;
}

bool abk_reader_next(abk_reader *reader, size_t max, abk_line *line)
{
    abk_buf *buf = &reader->buf;
    const size_t len = abk_buf_len(buf);
    if (len == 0)
        return false;
    const char *at = abk_buf_at(buf);
    const char *end = memchr(at + reader->searched, '\n', len - reader->searched);
    if (end == NULL) {
        reader->searched = len;
        if (reader->skipped > 0 || len >= max) { /* no room is left for its newline */
            skip(reader, len);
            reader->searched = 0;
        }
        return false;
    }
    const size_t size = (size_t)(end - at) + 1;
    reader->searched = 0;
    if (reader->skipped > 0 || size > max) {
        skip(reader, size);
        return oversize(reader, line);
    }
    *line = (abk_line){.at = at, .len = size, .size = size};
    buf->head += size; /* not abk_buf_drop(): an empty buffer must not be filled from its front */
    buf->base += size;
    return true;
}

abk_text abk_reader_rest(const abk_reader *reader, uint64_t *size)
{
    if (reader->skipped > 0) {
        *size = reader->skipped;
        return (abk_text){reader->edges, reader->edges == NULL ? 0 : reader->prefix_len};
    }
    const size_t len = abk_buf_len(&reader->buf);
    *size = len;
    return (abk_text){len > 0 ? abk_buf_at(&reader->buf) : NULL, (uint32_t)len};
}

void abk_reader_free(abk_reader *reader)
{
    abk_buf_free(&reader->buf);
    abk_free(reader->edges);
    *reader = (abk_reader){0};
}

void abk_reader_settle(abk_reader *reader, size_t keep)
{
    if (reader->buf.peak < reader->want / 4)
        reader->want = 0; /* as in the beginning */
    abk_buf_settle(&reader->buf, keep);
}
