/* Ids of requests: their canonical form, and the one that is read from the ends of a line that was
 * too long. See scan.h.
 *
 * The canonical form of a string is its decoded text; of a number its significant digits, followed
 * by zeros where it is an integer of at most 20 digits and by "e" and an exponent where it is not.
 */
#include "scan.h"

enum { PLAIN_DIGITS = 20, INTEGER_BYTES = 4300 };
#define FAR_EXPONENT INT64_C(1000000000000000000)

/* A number in JSON: its digits from the first to the last that is not 0, times ten to the power. */
typedef struct decimal {
    const char *first; /* NULL: it is zero */
    const char *last;  /* there may be the point between them */
    int64_t count;     /* of digits */
    int64_t power;
    bool negative;
    bool integer; /* as spelt: with neither point nor exponent */
} decimal;

static int64_t read_exponent(const char *p, const char *end)
{
    const bool negative = *p == '-';
    int64_t power = 0;
    if (*p == '-' || *p == '+')
        p++;
    for (; p < end; p++)
        power = power >= FAR_EXPONENT / 10 ? FAR_EXPONENT : power * 10 + (*p - '0');
    return negative ? -power : power;
}

static decimal read_number(const abk_value *number)
{
    const char *p = number->at, *const end = p + number->len, *point = NULL;
    decimal d = {.integer = true};
    if (p < end && *p == '-') {
        d.negative = true;
        p++;
    }
    for (; p < end && (*p | 0x20) != 'e'; p++) {
        if (*p == '.') {
            point = p;
        } else if (*p != '0') {
            d.last = p;
            if (d.first == NULL)
                d.first = p;
        }
    }
    d.integer = point == NULL && p == end;
    if (d.first == NULL)
        return d;
    const char *const mantissa_end = p;
    if (point == NULL)
        point = mantissa_end;
    d.count = d.last - d.first + 1 - (d.first < point && point < d.last);
    d.power = d.last < point ? point - d.last - 1 : point - d.last;
    if (mantissa_end < end && mantissa_end + 1 < end)
        d.power += read_exponent(mantissa_end + 1, end);
    if (d.power < -FAR_EXPONENT / 2) /* not read to its end; nobody tells it from zero */
        d.first = NULL;
    return d;
}

/* What rounds to infinity begins half a step above the largest float, at 2^1024 - 2^970. */
static const char too_large[] =
    "179769313486231580793728971405303415079934132710037826936173778980444968292764750946649017"
    "977587207096330286416692887910946555547851940402630657488671505820681908902000708383676273"
    "854845817711531764475730270069855571366959622842914819860834936475292719074168444365510704"
    "342711559699508093042880177904174497792";
enum { LARGE_DIGITS = sizeof too_large - 1 };

/* A plain integer, as nearly every id is: nothing is to be worked out. */
static bool is_plain(const abk_value *value)
{
    return value->kind == ABK_NUMBER && !value->escaped && value->len < PLAIN_DIGITS;
}

bool abk_id_fits(const abk_value *number)
{
    if (is_plain(number))
        return true;
    const decimal d = read_number(number);
    if (d.integer)
        return number->len <= INTEGER_BYTES;
    if (d.first == NULL || d.count + d.power < LARGE_DIGITS)
        return true;
    if (d.count + d.power > LARGE_DIGITS)
        return false;
    const char *p = d.first;
    for (size_t i = 0; i < LARGE_DIGITS; i++) {
        if (p <= d.last && *p == '.')
            p++;
        const char digit = p <= d.last ? *p++ : '0';
        if (digit != too_large[i])
            return digit < too_large[i];
    }
    return false;
}

int64_t abk_id_number(const abk_value *value)
{
    int64_t number = 0;
    if (value->kind != ABK_NUMBER || value->len == 0 || value->len > 16)
        return -1;
    for (uint32_t i = 0; i < value->len; i++) {
        const char c = value->at[i];
        if (c < '0' || c > '9')
            return -1;
        number = number * 10 + (c - '0');
    }
    return number <= INT64_C(1) << 53 ? number : -1;
}

/* --- the canonical form ---------------------------------------------------------------------- */

/* Bytes that write_number() takes at most, beyond those that were read. */
enum { EXPONENT_BYTES = 24 };

static uint32_t write_number(const decimal *d, char *out)
{
    char *to = out;
    if (d->first == NULL) {
        *out = '0';
        return 1;
    }
    if (d->negative)
        *to++ = '-';
    for (const char *p = d->first; p <= d->last; p++)
        if (*p != '.')
            *to++ = *p;
    int64_t power = d->power;
    if (power > 0 && d->count + power <= PLAIN_DIGITS) {
        for (; power > 0; power--)
            *to++ = '0';
    } else if (power != 0) {
        char reversed[EXPONENT_BYTES];
        size_t count = 0;
        *to++ = 'e';
        if (power < 0)
            *to++ = '-';
        for (uint64_t left = (uint64_t)(power < 0 ? -power : power); left > 0; left /= 10)
            reversed[count++] = (char)('0' + left % 10);
        while (count > 0)
            *to++ = reversed[--count];
    }
    return (uint32_t)(to - out);
}

static const char *id_memory(const abk_id_key *id)
{
    return id->heap != NULL ? id->heap : id->small;
}

abk_text abk_id_canonical(const abk_id_key *id)
{
    const size_t at = !id->shared ? id->raw_len : id->kind == ABK_STRING ? 1 : 0;
    return (abk_text){id_memory(id) + at, id->canon_len};
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return hash ^ hash >> 29;
}

/* Of digits alone, at most 19 of them: the same for every way to spell that number. */
static uint64_t hash_digits(abk_text text)
{
    uint64_t number = 0;
    for (uint32_t i = 0; i < text.len; i++)
        number = number * 10 + (uint64_t)(text.at[i] - '0');
    return mix(mix(ABK_NUMBER, number), number >> 32);
}

static bool are_digits(abk_text text)
{
    for (uint32_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9')
            return false;
    }
    return text.len > 0 && text.len < PLAIN_DIGITS;
}

static uint64_t hash_of(uint8_t kind, abk_text text)
{
    if (kind == ABK_NUMBER && are_digits(text))
        return hash_digits(text);
    uint64_t hash = mix(kind, text.len);
    uint64_t word = 0;
    uint32_t i = 0;
    for (; text.len - i >= sizeof word; i += (uint32_t)sizeof word) {
        memcpy(&word, text.at + i, sizeof word);
        hash = mix(hash, word);
    }
    word = 0;
    for (; i < text.len; i++) /* a copy of a length that is not known costs more */
        word = word << 8 | (unsigned char)text.at[i];
    hash = mix(mix(hash, word), hash >> 32);
    return hash ^ hash >> 32;
}

/* Whether the canonical form stands in raw already, and how long it is. */
static bool find_shared(abk_id_key *id, const abk_value *value, const decimal *d)
{
    if (value->kind == ABK_NULL) {
        id->canon_len = 0;
        return true;
    }
    id->canon_len = value->len;
    if (value->kind == ABK_STRING)
        return !value->escaped;
    return d->integer && d->count + d->power <= PLAIN_DIGITS && !(d->first == NULL && d->negative);
}

static uint32_t write_canonical(const abk_value *value, const decimal *d, char *out)
{
    return value->kind == ABK_STRING ? (uint32_t)abk_decode(value, out) : write_number(d, out);
}

int abk_id_make(abk_id_key *id, const abk_value *value)
{
    if (is_plain(value)) {
        id->kind = ABK_NUMBER;
        id->raw_len = id->canon_len = value->len;
        id->shared = true;
        id->heap = NULL;
        memcpy(id->small, value->at, value->len);
        id->hash = hash_digits((abk_text){id->small, id->canon_len});
        return ABK_OK;
    }
    memset(id, 0, sizeof *id);
    if (value->kind != ABK_NUMBER && value->kind != ABK_STRING && value->kind != ABK_NULL)
        return ABK_EINVAL;
    const abk_text raw = abk_value_raw(value);
    const decimal d = value->kind == ABK_NUMBER ? read_number(value) : (decimal){0};
    char canon[ABK_ID_INLINE + EXPONENT_BYTES];
    size_t size = raw.len;
    id->kind = value->kind;
    id->raw_len = raw.len;
    id->shared = find_shared(id, value, &d);
    if (!id->shared && raw.len <= ABK_ID_INLINE)
        size += id->canon_len = write_canonical(value, &d, canon);
    else if (!id->shared)
        size += (size_t)raw.len + EXPONENT_BYTES;
    if (size > ABK_ID_INLINE && (id->heap = abk_alloc(size)) == NULL)
        return ABK_ENOMEM;
    char *const at = id->heap != NULL ? id->heap : id->small;
    memcpy(at, raw.at, raw.len);
    if (!id->shared && raw.len <= ABK_ID_INLINE)
        memcpy(at + raw.len, canon, id->canon_len);
    else if (!id->shared)
        id->canon_len = write_canonical(value, &d, at + raw.len);
    id->hash = hash_of(id->kind, abk_id_canonical(id));
    return ABK_OK;
}

int abk_id_parse(abk_id_key *id, const char *json, size_t len)
{
    memset(id, 0, sizeof *id);
    if (len > UINT32_MAX)
        return ABK_EINVAL;
    const abk_value value = abk_scan_id((abk_text){json, (uint32_t)len});
    return abk_id_make(id, &value);
}

void abk_id_free(abk_id_key *id)
{
    abk_free(id->heap);
    memset(id, 0, sizeof *id);
}

bool abk_id_same(const abk_id_key *a, const abk_id_key *b)
{
    return a->hash == b->hash && a->kind == b->kind && abk_same(abk_id_canonical(a), abk_id_canonical(b));
}

abk_text abk_id_raw(const abk_id_key *id)
{
    return (abk_text){id_memory(id), id->raw_len};
}

/* --- lines of which only the ends are there --------------------------------------------------- */
/* What these take is what the regular expressions of codec.py take. */

static const char *spaces(const char *p, const char *end)
{
    while (p < end && (*p == ' ' || (*p >= '\t' && *p <= '\r')))
        p++;
    return p;
}

static const char *expect(const char *p, const char *end, const char *text)
{
    const size_t len = strlen(text);
    return p != NULL && (size_t)(end - p) >= len && memcmp(p, text, len) == 0 ? p + len : NULL;
}

/* One token between what may be spaces. */
static const char *token(const char *p, const char *end, const char *text)
{
    p = p == NULL ? NULL : expect(spaces(p, end), end, text);
    return p == NULL ? NULL : spaces(p, end);
}

static const char *quoted(const char *p, const char *end, bool controls)
{
    if (p == end || *p != '"')
        return NULL;
    for (p++; p < end; p++) {
        if (*p == '"')
            return p + 1;
        if (*p == '\\') {
            if (++p == end || *p == '\n')
                return NULL;
        } else if ((unsigned char)*p < ' ' && !controls) {
            return NULL;
        }
    }
    return NULL;
}

static const char *scalar(const char *p, const char *end)
{
    static const char *const words[] = {"true", "false", "null"};
    if (p == end || *p == '"')
        return quoted(p, end, false);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (expect(p, end, words[i]) != NULL)
            return expect(p, end, words[i]);
    if (*p == '-')
        p++;
    if (p == end || *p < '0' || *p > '9')
        return NULL;
    while (p < end && ((*p >= '0' && *p <= '9') || (*p != '\0' && strchr(".eE+-", *p) != NULL)))
        p++;
    return p;
}

static abk_value read_between(const char *from, const char *to)
{
    return abk_scan_id((abk_text){from, (uint32_t)(to - from)});
}

/* The name that stands behind this, and where its value begins; NULL: there is none. */
static const char *read_name(const char *p, const char *end, abk_value *name)
{
    p = spaces(p, end);
    if (p == end || (*p != '{' && *p != ','))
        return NULL;
    const char *const from = spaces(p + 1, end);
    const char *const to = quoted(from, end, true);
    const char *const value = to == NULL ? NULL : token(to, end, ":");
    if (value != NULL)
        *name = read_between(from, to);
    return value;
}

/* Behind a scalar that is whole, since a comma follows; NULL: it is not, or is none. */
static const char *behind_scalar(const char *value, const char *end)
{
    const char *const value_end = scalar(value, end);
    return value_end == NULL || token(value_end, end, ",") == NULL ? NULL : value_end;
}

/* The id among the members at the front, up to the first nested value; true: it has a method, and
 * calls are not looked for. */
static bool read_front(abk_text prefix, bool calls, abk_value *found)
{
    const char *p = prefix.at, *const end = p + prefix.len;
    for (;;) {
        abk_value name;
        const char *const value = read_name(p, end, &name);
        p = value == NULL ? NULL : behind_scalar(value, end);
        if (p == NULL)
            return false;
        if (!calls && abk_value_is(&name, ABK_TEXT("method")))
            return true;
        if (abk_value_is(&name, ABK_TEXT("id")))
            *found = read_between(value, p);
    }
}

bool abk_salvage_answers(abk_text prefix)
{
    if (prefix.len == 0)
        return false; /* at may be NULL */
    const char *const end = prefix.at + prefix.len;
    for (const char *p = prefix.at; p != NULL;) {
        abk_value name;
        const char *const value = read_name(p, end, &name);
        if (value == NULL || abk_value_is(&name, ABK_TEXT("method")))
            return false;
        if (abk_value_is(&name, ABK_TEXT("result")) || abk_value_is(&name, ABK_TEXT("error")))
            return true;
        p = behind_scalar(value, end);
    }
    return false;
}

/* The id that only the version and the end of the line's own object follow. */
static abk_value read_back(abk_text suffix)
{
    const char *const end = suffix.at + suffix.len;
    for (const char *p = suffix.at; p < end; p++) {
        if (*p != ',')
            continue;
        const char *const value = token(token(p + 1, end, "\"id\""), end, ":");
        const char *const value_end = value == NULL ? NULL : scalar(value, end);
        if (value_end == NULL)
            continue;
        const char *rest = spaces(value_end, end);
        const char *version = token(token(token(rest, end, ","), end, "\"jsonrpc\""), end, ":");
        version = token(version, end, "\"2.0\"");
        if (token(version != NULL ? version : rest, end, "}") == end)
            return read_between(value, value_end);
    }
    return (abk_value){0};
}

abk_value abk_salvage_id(abk_text prefix, abk_text suffix, bool *none)
{
    abk_value found = {0};
    const bool call = prefix.len > 0 && read_front(prefix, none == NULL, &found);
    if (call) {
        *none = true;
        return (abk_value){0};
    }
    if (found.kind == ABK_ABSENT && suffix.len > 0)
        found = read_back(suffix);
    if (none != NULL)
        *none = found.kind == ABK_NULL;
    return found;
}
