/* A whole JSON document as values in an arena: for configurations, where errors must name a place.
 * What is read for each message is scan.h's. */
#ifndef ABK_JSON_H
#define ABK_JSON_H

#include "arena.h"
#include "buf.h"
#include "scan.h"

enum { ABK_JSON_DEPTH = 64 };

typedef struct abk_json {
    uint8_t kind;  /* abk_kind */
    bool truth;    /* of a BOOL */
    bool integral; /* of a NUMBER: it has neither point nor exponent, and integer is it */
    double number;
    int64_t integer;
    const char *text; /* of a STRING, decoded, with a NUL behind it */
    uint32_t len;     /* of the text; of an ARRAY or OBJECT the number of its items */
    const char *name; /* of a member, decoded */
    uint32_t name_len;
    struct abk_json *first; /* items, in their order */
    struct abk_json *next;
} abk_json;

/* Read a document. NULL on error: *error says where and what. */
abk_json *abk_json_read(abk_arena *arena, const char *at, size_t len, abk_error *error);
/* The member of an object; NULL where there is none. */
const abk_json *abk_json_member(const abk_json *object, const char *name);
/* Whether a value is this string, or a member has this name: one with a NUL inside is another. */
bool abk_json_says(const abk_json *value, const char *text);
bool abk_json_is_named(const abk_json *member, const char *name);
/* Write a value as compact JSON. */
void abk_json_write(abk_buf *out, const abk_json *value);

#endif
