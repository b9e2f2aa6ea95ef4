/* Bytes of an fd, cut into lines: bounded, linear, in place.
 *
 * A line stays where it is until the next abk_reader_fill(). One over the limit is skipped to its
 * newline without being kept; its first and last bytes are.
 */
#ifndef ABK_READER_H
#define ABK_READER_H

#include "buf.h"

enum { ABK_EDGE_BYTES = 4096 };

typedef struct abk_reader {
    abk_buf buf;
    size_t searched; /* bytes behind buf.head that hold no newline */
    size_t want;     /* room for the next read */
    bool more;       /* the last one may have left something */
    char *edges;     /* of the oversize line: ABK_EDGE_BYTES of its begin, twice that of its end */
    uint32_t prefix_len, suffix_len;
    uint64_t skipped; /* bytes of the oversize line so far; 0: none is open */
} abk_reader;

typedef struct abk_line {
    const char *at; /* with its newline; of an oversize one its first bytes */
    size_t len;
    bool oversize;
    uint64_t size; /* of the whole line */
    abk_text suffix;
} abk_line;

/* Read once, at least least bytes of room. > 0: bytes; 0: the end; -errno. */
ssize_t abk_reader_fill(abk_reader *reader, int fd, size_t least, size_t most);

/* Take the next whole line of at most max bytes, or the next oversize one; false: read more.
 * Without memory for the edges of an oversize line these are empty. */
bool abk_reader_next(abk_reader *reader, size_t max, abk_line *line);

/* What is left of a line without an end; its whole length is in *size. */
abk_text abk_reader_rest(const abk_reader *reader, uint64_t *size);

/* Give back memory that was not needed since the last call, down to keep bytes. */
void abk_reader_settle(abk_reader *reader, size_t keep);

void abk_reader_free(abk_reader *reader);

#endif
