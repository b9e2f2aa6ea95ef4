/* The out-queue of a worker's pipe: see outbox.h. */
#include "outbox.h"

/* The first hole that ends at this position or later. */
static uint32_t find(const abk_outbox *out, uint64_t from)
{
    uint32_t low = 0;
    uint32_t high = out->hole_count;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (out->holes[middle].to < from)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Drop what is at the front and is not to be written. */
static void skip(abk_outbox *out)
{
    uint32_t gone = 0;
    while (gone < out->hole_count && out->holes[gone].from == out->buf.base) {
        const uint64_t len = out->holes[gone].to - out->holes[gone].from;
        abk_buf_drop(&out->buf, (size_t)len);
        out->hole_bytes -= len;
        gone++;
    }
    if (gone > 0) {
        out->hole_count -= gone;
        memmove(out->holes, out->holes + gone, out->hole_count * sizeof *out->holes);
    }
}

int abk_outbox_withdraw(abk_outbox *out, uint64_t start, uint32_t len)
{
    const uint64_t end = start + len;
    const uint32_t at = find(out, start);
    const bool after = at < out->hole_count && out->holes[at].to == start;
    const uint32_t next = after ? at + 1 : at;
    const bool before = next < out->hole_count && out->holes[next].from == end;
    if (after) {
        out->holes[at].to = before ? out->holes[next].to : end;
        if (before) {
            out->hole_count--;
            memmove(out->holes + next, out->holes + next + 1,
                    (out->hole_count - next) * sizeof *out->holes);
        }
    } else if (before) {
        out->holes[next].from = start;
    } else {
        if (out->hole_count == out->hole_cap) {
            const uint32_t cap = out->hole_cap == 0 ? 8 : out->hole_cap * 2;
            abk_hole *holes = abk_realloc(out->holes, cap * sizeof *holes);
            if (holes == NULL)
                return ABK_ENOMEM;
            out->holes = holes;
            out->hole_cap = cap;
        }
        abk_hole *hole = out->holes + at;
        memmove(hole + 1, hole, (out->hole_count - at) * sizeof *hole);
        *hole = (abk_hole){start, end};
        out->hole_count++;
    }
    out->hole_bytes += len;
    skip(out);
    return ABK_OK;
}

int abk_outbox_parts(const abk_outbox *out, struct iovec *parts, int max)
{
    const uint64_t end = abk_outbox_end(out);
    uint64_t at = out->buf.base;
    int count = 0;
    for (uint32_t i = 0; at < end && count < max; i++) {
        const uint64_t to = i < out->hole_count ? out->holes[i].from : end;
        if (to > at) {
            char *from = out->buf.data + out->buf.head + (at - out->buf.base);
            parts[count++] = (struct iovec){from, (size_t)(to - at)};
        }
        at = i < out->hole_count ? out->holes[i].to : end;
    }
    return count;
}

void abk_outbox_wrote_bytes(abk_outbox *out, uint64_t written)
{
    while (written > 0) {
        const uint64_t to = out->hole_count > 0 ? out->holes[0].from : abk_outbox_end(out);
        const uint64_t run = to - out->buf.base;
        const uint64_t step = written < run ? written : run;
        abk_buf_drop(&out->buf, (size_t)step);
        written -= step;
        skip(out);
    }
}

void abk_outbox_clear(abk_outbox *out)
{
    abk_buf_clear(&out->buf);
    out->hole_count = 0;
    out->hole_bytes = 0;
}

void abk_outbox_free(abk_outbox *out)
{
    abk_buf_free(&out->buf);
    abk_free(out->holes);
    *out = (abk_outbox){0};
}
