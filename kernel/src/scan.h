/* Find what a kernel reads in a line of JSON-RPC: the byte ranges of its top-level members, and of
 * a member at a path below. Strict JSON (RFC 8259), no tree, no allocation, linear, no recursion.
 *
 * Agrees with the Python kernel's decoder (anyio_bus/_sansio/codec.py) on what is a message:
 * tests/kernel/test_scanner.py compares them. As there, bytes that are not UTF-8 are refused in
 * method, a text id and a text sessionId, and passed on in all other strings and names; lone
 * surrogates are refused everywhere. What remains, where Python is right by accident:
 *
 *     nesting           here 512, the object of the line included; there what is left of the
 *                       interpreter's recursion limit, some 990
 *     id like 1797...e0 within the last digits below what rounds to infinity, with more than some
 *                       800 digits: here the exact value decides, there it is cut before
 *     value of ids      here exact decimals; there floats are rounded, so that two ids that differ
 *                       after the 17th digit, or below 1e-323, are one
 */
#ifndef ABK_SCAN_H
#define ABK_SCAN_H

#include "base.h"

enum { ABK_MAX_DEPTH = 512 }; /* of nested arrays and objects; deeper is ABK_EPROTO */

typedef enum abk_kind {
    ABK_ABSENT = 0,
    ABK_NULL,
    ABK_BOOL,
    ABK_NUMBER,
    ABK_STRING,
    ABK_OBJECT,
    ABK_ARRAY
} abk_kind;

/* A JSON value inside a line. For a string at and len are what stands between its quotes. */
typedef struct abk_value {
    const char *at;
    uint32_t len;
    uint8_t kind;       /* abk_kind; ABK_ABSENT: the member is not there */
    bool escaped;       /* a string with a backslash in it; a number that is more than digits */
    const char *member; /* where its member begins: the quote of its name */
    uint32_t member_len; /* up to the end of the value, without the comma */
} abk_value;

typedef struct abk_message {
    abk_value id, method, params, result, error, session, pool;
    bool chunk;    /* it begins with ABK_CHUNK_START */
    bool repeated; /* one of these members stood there twice; each is the last of its name */
    bool odd_member; /* after ABK_EPROTO: it is JSON, but an id, method or sessionId is not what it may be */
    bool odd_session; /* a sessionId that was no string stood there, maybe not as the last */
    const char *reason; /* after ABK_EPROTO: what is wrong, a static text */
} abk_message;

/* Scan one line, with or without its newline (and CR). Names may be escaped and members in any
 * order. ABK_OK; ABK_AGAIN for a line of nothing but blanks; ABK_EPROTO for what is not JSON, not
 * an object, or has an id that is neither number, string nor null, or a method that is no string.
 * A number that no float can hold, or of more than 4300 digits, is no id. A newline anywhere but at
 * the end is no JSON here, so that what is scanned can be passed on as one line.
 * sessionId and pool may be of any kind: what that means is the caller's business. */
int abk_scan(const char *line, size_t len, abk_message *message);

/* Find the end of the last value of a line that the caller has made around it, from last->at on. False where
 * it is not one value, with nothing between it and the "}\n" of the line. */
bool abk_scan_last(const char *line, size_t len, abk_value *last);

/* What a scanned message is. */
typedef enum abk_role { ABK_NOTHING, ABK_REQUEST, ABK_NOTIFICATION, ABK_RESPONSE } abk_role;
static inline abk_role abk_role_of(const abk_message *m)
{
    if (m->method.kind == ABK_STRING)
        return m->id.kind == ABK_ABSENT ? ABK_NOTIFICATION : ABK_REQUEST;
    const bool answers = m->result.kind != ABK_ABSENT || m->error.kind != ABK_ABSENT;
    return answers && m->id.kind != ABK_ABSENT ? ABK_RESPONSE : ABK_NOTHING;
}

/* Whether a line of a worker that abk_scan() took is a message to the Python kernel as well. */
static inline bool abk_scan_worker_ok(const abk_message *m)
{
    return !m->odd_session && abk_role_of(m) != ABK_NOTHING;
}

/* A value as it stands in its line: a string with its quotes. */
static inline abk_text abk_value_raw(const abk_value *value)
{
    if (value->kind == ABK_STRING)
        return (abk_text){value->at - 1, value->len + 2};
    return (abk_text){value->at, value->len};
}

/* Names to go through from a value that is an object, e.g. {"_meta", "progressToken"}. */
enum { ABK_MAX_PATH = 8 };
typedef struct abk_path {
    uint32_t count;
    abk_text names[ABK_MAX_PATH];
} abk_path;

/* Find the member at a path below an object that abk_scan() has found; the last of a name counts.
 * False, and *found is ABSENT, where there is none, or the path is empty. */
bool abk_scan_path(const abk_value *object, const abk_path *path, abk_value *found);

/* Whether a string value says this, escapes decoded. */
bool abk_value_is(const abk_value *value, abk_text text);

/* Decode a string value into out, which holds at least value->len bytes (a decoded string is never
 * longer; lone surrogates become three bytes, as WTF-8). Returns the number of bytes. */
size_t abk_decode(const abk_value *value, char *out);

/* The bytes to leave out of a line so that a member is gone with one comma beside it: the one
 * behind it, or before it where it is the last. Len 0 for one that is ABSENT. Two of these in the
 * same line may share a comma: take abk_cut_both(). */
abk_text abk_cut(const char *line, size_t len, const abk_value *value);

/* The same for two members of a line at once (each may be ABSENT); cuts do not overlap and stand in
 * the order of the line. Returns their number. */
uint32_t abk_cut_both(const char *line, size_t len, const abk_value *a, const abk_value *b,
                      abk_text cuts[2]);

/* Rewrite a line with repeated members so that only the last of each name among the seven above
 * stays. out holds at least len bytes. Returns the new length; the newline stays if there was one.
 * A line that abk_scan() does not take is copied as it is. */
size_t abk_unrepeat(const char *line, size_t len, char *out);

/* The id of a line of which only both ends are known (at most 4096 bytes each), read as
 * salvage_id() in codec.py does. ABK_ABSENT: cannot be known. *none says whether it is seen to
 * answer no request of ours: it has a method (then ABSENT as well), or its id is null. */
/* none NULL: the line may be a request, whose id is looked for all the same. */
abk_value abk_salvage_id(abk_text prefix, abk_text suffix, bool *none);

/* Whether such a line is seen to be a response: at the front, up to the name of its first nested
 * value, stands a result or an error, and no method before it. */
bool abk_salvage_answers(abk_text prefix);

/* --- ids ------------------------------------------------------------------------------------- */

/* A request's id: compared by type and value, kept as it was spelt. Numbers are compared by their
 * exact decimal value (1 and 1.0 and 1e0 are one id, and so are 0 and -0.0), strings with their
 * escapes decoded. An id may be moved, as it holds no pointer into itself. */
enum { ABK_ID_INLINE = 40 };
typedef struct abk_id {
    uint64_t hash;      /* of type and value */
    uint32_t raw_len;   /* as spelt in JSON, quotes included */
    uint32_t canon_len; /* the canonical form, which stands behind raw in the same memory */
    uint8_t kind;
    bool shared; /* the canonical form is a part of raw: plain integers, strings without escapes */
    char *heap; /* NULL: both forms fit into small */
    char small[ABK_ID_INLINE];
} abk_id_key;

/* Make an id from a scanned value (NUMBER, STRING or NULL; else ABK_EINVAL). ABK_ENOMEM only for
 * long ids. After a failure there is nothing to free. */
int abk_id_make(abk_id_key *id, const abk_value *value);
/* The same from JSON text, "5" or "\"a\""; ABK_EINVAL if it is no id. */
int abk_id_parse(abk_id_key *id, const char *json, size_t len);
void abk_id_free(abk_id_key *id);
bool abk_id_same(const abk_id_key *a, const abk_id_key *b);
abk_text abk_id_raw(const abk_id_key *id);
/* What is compared: decoded, and numbers in one spelling. */
abk_text abk_id_canonical(const abk_id_key *id);
/* A value that is a plain decimal integer from 0 to 2^53: that integer; else -1. */
int64_t abk_id_number(const abk_value *value);

/* --- between scan.c, value.c and id.c -------------------------------------------------------- */

/* The value of four hexadecimal digits, or -1. */
int32_t abk_hex4(const char *p, const char *end);

/* Read a text that is one number, string or null, without blanks, as the id of a line would be;
 * ABSENT where it is none of them. */
abk_value abk_scan_id(abk_text text);
/* Whether a number can be an id. */
bool abk_id_fits(const abk_value *number);

#endif
