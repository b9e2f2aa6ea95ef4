/* Prints what the scanner finds in each line of stdin, as a line of JSON, so that another program
 * can compare. Usage: scan_lines [salvage]
 *
 * {"ok":bool,"role":"request","id":5,"id_kind":3,"method":"m","session":null}
 * ok: from a worker the line is a message. role: request, notification, response, nothing, blank or
 * bad. id, method and session stand as they are spelt; id_kind is an abk_kind.
 *
 * With "salvage" a line is a prefix, a NUL and a suffix: {"id":5,"id_kind":3,"none":bool}
 */
#include "../src/scan.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_LINE = 64 << 20 };

static void print_value(const char *name, const abk_value *value)
{
    const bool shown = value->kind != ABK_ABSENT && value->kind < ABK_OBJECT;
    const abk_text raw = shown ? abk_value_raw(value) : ABK_TEXT("null");
    printf("\"%s\":%.*s,", name, (int)raw.len, raw.at);
}

static void print_line(const char *line, size_t len)
{
    static const char *const roles[] = {"nothing", "request", "notification", "response"};
    abk_message m;
    const int result = abk_scan(line, len, &m);
    const char *role = result == ABK_AGAIN ? "blank" : "bad";
    if (result == ABK_OK)
        role = roles[abk_role_of(&m)];
    else
        m = (abk_message){0};
    printf("{\"ok\":%s,", result == ABK_OK && abk_scan_worker_ok(&m) ? "true" : "false");
    print_value("id", &m.id);
    print_value("method", &m.method);
    print_value("session", &m.session);
    printf("\"id_kind\":%d,\"role\":\"%s\"}\n", m.id.kind, role);
}

static void print_salvaged(const char *line, size_t len)
{
    const char *const nul = memchr(line, '\0', len);
    const size_t front = nul == NULL ? len : (size_t)(nul - line);
    const size_t back = nul == NULL ? 0 : len - front - 1;
    bool none;
    const abk_value id = abk_salvage_id((abk_text){line, (uint32_t)front},
                                        (abk_text){line + len - back, (uint32_t)back}, &none);
    printf("{");
    print_value("id", &id);
    printf("\"id_kind\":%d,\"none\":%s}\n", id.kind, none ? "true" : "false");
}

/* A line up to its newline or the end of stdin, in memory that grows. 0: no more; -1: too long. */
static ssize_t read_line(char **line, size_t *size)
{
    size_t len = 0;
    for (int c; (c = getchar()) != EOF;) {
        if (len == *size) {
            char *const more = len < MAX_LINE ? realloc(*line, len == 0 ? 256 : len * 2) : NULL;
            if (more == NULL)
                return -1;
            *line = more;
            *size = len == 0 ? 256 : len * 2;
        }
        (*line)[len++] = (char)c;
        if (c == '\n')
            break;
    }
    return (ssize_t)len;
}

int main(int argc, char **argv)
{
    const bool salvage = argc > 1 && strcmp(argv[1], "salvage") == 0;
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    while ((len = read_line(&line, &size)) > 0) {
        if (salvage)
            print_salvaged(line, (size_t)len);
        else
            print_line(line, (size_t)len);
    }
    free(line);
    return len < 0 ? 2 : 0;
}
