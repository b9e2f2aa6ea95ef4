/* The life of a slot, cell by cell against the table of docs/design/kernel.md. */
#include "../src/lifecycle.h"
#include "test.h"

#include <stdlib.h>

enum { LINE_BYTES = 1024, CELLS = ABK_LIFE_EVENTS + 1 };
static const char page[] = "../docs/design/kernel.md"; /* from the folder of the Makefile */

/* The next cell of a row of the table, without blanks and backquotes around it. */
static const char *cell(char **at)
{
    static char text[LINE_BYTES];
    char *end = strchr(*at, '|');
    if (end == NULL)
        return NULL;
    size_t len = 0;
    for (const char *from = *at; from < end; from++) {
        if (*from != '`')
            text[len++] = *from;
    }
    while (len > 0 && text[len - 1] == ' ')
        len--;
    text[len] = '\0';
    *at = end + 1;
    return text + strspn(text, " ");
}

static void check_cell(abk_state state, abk_life_event event, const char *want)
{
    for (int retired = 0; retired < 2; retired++) {
        abk_lifecycle life = {state, retired == 1};
        const abk_action action = abk_life_fire(&life, event);
        char got[64] = "";
        const bool ends =
            (retired == 1 || event == ABK_E_RETIRE) && strncmp(want, "backoff", 7) == 0;
        if (action != ABK_DO_IGNORE)
            snprintf(got, sizeof got, "%s, %s", abk_state_name(life.state),
                     abk_action_name(action));
        else
            CHECK(life.state == state);
        CHECK_TEXT(got, ends ? "stopped, finish" : want);
        CHECK(life.retired == (retired == 1 || event == ABK_E_RETIRE));
    }
}

static void check_row(char *line)
{
    int state = 0;
    char *at = line + 1;
    const char *name = cell(&at);
    while (state < ABK_STATES && strcmp(abk_state_name((abk_state)state), name) != 0)
        state++;
    CHECK(state < ABK_STATES);
    for (int event = 0; event < ABK_LIFE_EVENTS && state < ABK_STATES; event++) {
        const char *want = cell(&at);
        CHECK(want != NULL);
        if (want != NULL)
            check_cell((abk_state)state, (abk_life_event)event, want);
    }
}

static void check_head(char *line)
{
    char *at = line + 1;
    CHECK_TEXT(cell(&at), "");
    for (int event = 0; event < ABK_LIFE_EVENTS; event++)
        CHECK_TEXT(cell(&at), abk_life_event_name((abk_life_event)event));
}

static void it_is_the_table_of_the_docs(void)
{
    char line[LINE_BYTES];
    FILE *file = fopen(page, "r");
    bool inside = false;
    int rows = -2; /* its head, and the rule below that */
    CHECK(file != NULL);
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "<!-- end -->", 12) == 0)
            inside = false;
        if (inside && rows == -2)
            check_head(line);
        else if (inside && rows >= 0)
            check_row(line);
        rows += inside;
        inside = inside || strncmp(line, "<!-- table: lifecycle -->", 25) == 0;
    }
    CHECK(rows == ABK_STATES);
    if (file != NULL)
        fclose(file);
}

static void states_are_those_of_the_header(void)
{
    static const struct {
        int number;
        const char *name;
    } all[] = {{ABK_WORKER_VACANT, "vacant"},     {ABK_WORKER_STARTING, "starting"},
               {ABK_WORKER_READY, "ready"},       {ABK_WORKER_DRAINING, "draining"},
               {ABK_WORKER_STOPPING, "stopping"}, {ABK_WORKER_BACKOFF, "backoff"},
               {ABK_WORKER_PARKED, "parked"},     {ABK_WORKER_STOPPED, "stopped"}};
    CHECK(sizeof all / sizeof *all == ABK_STATES);
    for (size_t i = 0; i < ABK_STATES; i++) {
        CHECK(all[i].number == (int)i);
        CHECK_TEXT(abk_worker_state(all[i].number), all[i].name);
    }
    CHECK_TEXT(abk_worker_state(-1), "unknown");
    CHECK_TEXT(abk_worker_state(ABK_STATES), "unknown");
}

static void one_that_was_retired_never_comes_back(void)
{
    uint32_t state = 5;
    for (int round = 0; round < 20000; round++) {
        abk_lifecycle life = {0};
        bool retired = false;
        for (int i = 0; i < 30; i++) {
            state = state * 1664525u + 1013904223u;
            const abk_life_event event = (abk_life_event)((state >> 16) % ABK_LIFE_EVENTS);
            const abk_state before = life.state;
            const abk_action action = abk_life_fire(&life, event);
            retired = retired || event == ABK_E_RETIRE;
            CHECK(life.retired == retired && life.state < ABK_STATES);
            CHECK(before != ABK_S_STOPPED || life.state == ABK_S_STOPPED);
            CHECK(!retired || action != ABK_DO_START);
            CHECK(action != ABK_DO_IGNORE || life.state == before);
        }
    }
}

TEST_MAIN(TEST(it_is_the_table_of_the_docs), TEST(states_are_those_of_the_header),
          TEST(one_that_was_retired_never_comes_back))
