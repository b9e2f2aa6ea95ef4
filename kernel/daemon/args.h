/* The command line of anyio-busd as values. Nothing here opens, prints or exits. */
#ifndef ABKD_ARGS_H
#define ABKD_ARGS_H

#include <abk.h>

enum { ABKD_LISTENERS = 64, ABKD_HOST_BYTES = 256 };

typedef enum { ABKD_RUN, ABKD_CHECK, ABKD_HELP, ABKD_VERSION } abkd_action;

typedef struct abkd_address {
    const char *path; /* NULL: TCP */
    bool admin;
    uint16_t port;
    char host[ABKD_HOST_BYTES]; /* empty: every address */
} abkd_address;

typedef struct abkd_options { /* texts are those of argv */
    abkd_action action;
    const char *config; /* NULL: config_fd */
    int config_fd;      /* -1: config */
    const char *token_file;
    bool config_line;    /* --config -: the first line of stdin */
    bool token_line;     /* --token-file -: the line after it, or the first one */
    bool end_with_stdin; /* whoever else is there */
    bool strict;
    bool stdio; /* said, or nothing else was */
    bool insecure_tcp;
    unsigned unix_mode; /* of --unix; 0: not said */
    int log_level;      /* ABK_LOG_...; -1: not said */
    bool log_json;
    uint32_t address_count;
    abkd_address addresses[ABKD_LISTENERS];
} abkd_options;

/* Read a command line; argv[0] is skipped. 0, or -1: error says what is wrong with it, in one line.
 * After --help or --version only action counts. */
int abkd_parse(int argc, char **argv, abkd_options *out, char *error, size_t error_len);

/* Whether this value of DEBUG_STDIO asks for debug lines; NULL is no value. */
bool abkd_wants_debug(const char *value);

/* What --help prints. */
const char *abkd_help(void);

#endif
