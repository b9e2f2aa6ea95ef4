/* Configurations for tests: made from a part, read, and compared with the error that is wanted. */
#ifndef ABK_TEST_CONFIGS_H
#define ABK_TEST_CONFIGS_H

#include "test.h"

#include "../src/config.h"

#include <stdlib.h>
#include <unistd.h>

static char text_of[16384]; /* the document of the last whole() or pool_with() */

static const char *whole(const char *more)
{
    snprintf(text_of, sizeof text_of, "{\"pools\":[{\"id\":\"a\",\"command\":[\"x\"]}]%s%s}",
             *more == '\0' ? "" : ",", more);
    return text_of;
}

static const char *pool_with(const char *more)
{
    snprintf(text_of, sizeof text_of, "{\"pools\":[{\"id\":\"a\",\"command\":[\"x\"]%s%s}]}",
             *more == '\0' ? "" : ",", more);
    return text_of;
}

static abk_config *read_it(const char *json, bool strict, abk_error *error)
{
    const size_t len = strlen(json);
    char *copy = malloc(len + 1); /* what is read must not point into it */
    if (copy == NULL)
        abort();
    memcpy(copy, json, len);
    abk_config *config = abk_config_read(copy, len, strict, error);
    free(copy);
    return config;
}

static abk_config *good(const char *json)
{
    abk_error error = {0};
    abk_config *config = read_it(json, true, &error);
    if (config == NULL) {
        fprintf(stderr, "%s: refused: %s\n", json, error.text);
        abort();
    }
    return config;
}

static void check_good(const char *json) { abk_config_free(good(json)); }

static void check_bad(const char *json, const char *want)
{
    abk_error error = {0};
    abk_config *config = read_it(json, true, &error);
    if (config != NULL || error.code != ABK_EINVAL || strcmp(error.text, want) != 0) {
        fprintf(stderr, "%s:\n  got  %s\n  want %s\n", json,
                config == NULL ? error.text : "it is taken", want);
        test_failures++;
    }
    abk_config_free(config);
}

typedef struct wanted {
    const char *json;
    const char *text; /* behind the place that all share */
} wanted;

#define CHECK_ALL_BAD(make, place, list)                                                           \
    for (size_t i = 0; i < sizeof(list) / sizeof *(list); i++) {                                   \
        char want[512];                                                                            \
        snprintf(want, sizeof want, "config: %s%s", place, (list)[i].text);                        \
        check_bad(make((list)[i].json), want);                                                     \
    }

static const char *command(const char *json)
{
    snprintf(text_of, sizeof text_of, "{\"pools\":[{\"id\":\"a\"%s%s}]}", *json == '\0' ? "" : ",",
             json);
    return text_of;
}

static bool same_text(abk_text text, const char *want)
{
    return text.len == strlen(want) && memcmp(text.at, want, text.len) == 0;
}

#define SAME(a, b) CHECK(!((a) < (b)) && !((a) > (b)))

#endif
