/* Lines with some of their bytes replaced on the way through. */
#include "bus.h"

#include <stdio.h>

enum { KEY_DIGITS = 20 };

void abk_frame_patch(abk_frame *frame, abk_text what, abk_text with, bool key)
{
    if (frame->count == ABK_MAX_PATCHES)
        return; /* no caller has so many */
    uint32_t at = frame->count++;
    for (; at > 0 && frame->patches[at - 1].what.at > what.at; at--)
        frame->patches[at] = frame->patches[at - 1];
    frame->patches[at] = (abk_patch){what, with, key};
}

size_t abk_frame_most(const abk_frame *frame)
{
    size_t most = frame->line.len;
    for (uint32_t i = 0; i < frame->count; i++)
        most += frame->patches[i].key ? KEY_DIGITS : frame->patches[i].with.len;
    return most;
}

/* snprintf costs more than all the rest of a request. */
size_t abk_put_number(char *out, uint64_t number)
{
    char digits[KEY_DIGITS];
    size_t len = 0;
    do {
        digits[len++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    for (size_t i = 0; i < len; i++)
        out[i] = digits[len - 1 - i];
    return len;
}

size_t abk_frame_put(const abk_frame *frame, int64_t key, char *out)
{
    const char *from = frame->line.at;
    const char *end = from + frame->line.len;
    char *to = out;
    for (uint32_t i = 0; i < frame->count; i++) {
        const abk_patch *patch = &frame->patches[i];
        if (patch->what.at < from)
            continue; /* inside one that was replaced already */
        memcpy(to, from, (size_t)(patch->what.at - from));
        to += patch->what.at - from;
        from = patch->what.at + patch->what.len;
        if (patch->key)
            to += abk_put_number(to, (uint64_t)key);
        else if (patch->with.len > 0) {
            memcpy(to, patch->with.at, patch->with.len);
            to += patch->with.len;
        }
    }
    memcpy(to, from, (size_t)(end - from));
    return (size_t)(to - out) + (size_t)(end - from);
}
