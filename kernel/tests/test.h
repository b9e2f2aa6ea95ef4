/* The whole test framework: CHECK() counts and goes on, TEST_MAIN() runs and reports. */
#ifndef ABK_TEST_H
#define ABK_TEST_H

#include <stdio.h>
#include <string.h>

static int test_failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s: not so: %s\n", __FILE__, __LINE__, __func__, #condition);  \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

#define CHECK_TEXT(got, want)                                                                      \
    do {                                                                                           \
        const char *got_ = (got), *want_ = (want);                                                 \
        if (got_ == NULL || strcmp(got_, want_) != 0) {                                            \
            fprintf(stderr, "%s:%d: %s: got %s, want %s\n", __FILE__, __LINE__, __func__,          \
                    got_ == NULL ? "NULL" : got_, want_);                                          \
            test_failures++;                                                                       \
        }                                                                                          \
    } while (0)

typedef struct test_case {
    const char *name;
    void (*run)(void);
} test_case;

#define TEST_MAIN(...)                                                                             \
    int main(void)                                                                                 \
    {                                                                                              \
        const test_case cases[] = {__VA_ARGS__};                                                   \
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {                                \
            const int before = test_failures;                                                      \
            cases[i].run();                                                                        \
            printf("%-6s %s\n", test_failures == before ? "ok" : "FAILED", cases[i].name);         \
        }                                                                                          \
        return test_failures == 0 ? 0 : 1;                                                         \
    }
#define TEST(function) {#function, function}

#endif
