/* The command line: see args.h. */
#include "args.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: anyio-busd (--config PATH | --config-fd N) [--stdio] [--tcp HOST:PORT]\n"
    "                  [--unix PATH] [--admin-unix PATH] [--admin-tcp HOST:PORT]\n"
    "                  [OPTION ...]\n"
    "\n"
    "Run pools of worker processes, and pass JSON-RPC lines between clients and them.\n"
    "\n"
    "configuration:\n"
    "  --config PATH       read it from this JSON file; - is the first line of stdin\n"
    "  --config-fd N       read it from this file descriptor, to its end\n"
    "  --strict            make a key that nobody knows an error, not a warning\n"
    "  --check-config      check it, strictly, say so, and start nothing\n"
    "\n"
    "clients, as many as you like (--stdio if you name none):\n"
    "  --stdio             one client, on stdin and stdout; it has admin rights\n"
    "  --tcp HOST:PORT     listen here; [::1]:9000 is IPv6, without a HOST every\n"
    "                      address, and with port 0 the system chooses one\n"
    "  --unix PATH         listen on this socket file\n"
    "  --admin-unix PATH   the same, for clients with admin rights\n"
    "  --unix-mode OCTAL   mode of the files of --unix (default: 0600)\n"
    "  --admin-tcp H:P     the same on TCP, with a token wherever it listens\n"
    "  --token-file PATH   clients on TCP must show the token in this file; - is the\n"
    "                      next line of stdin\n"
    "  --insecure-tcp      let --tcp listen beyond this machine without a token\n"
    "\n"
    "  --end-with-stdin    the end of stdin is like TERM, whoever else is connected\n"
    "\n"
    "log, on stderr:\n"
    "  --log-level LEVEL   debug, info, warning or error (default: info, or debug if\n"
    "                      DEBUG_STDIO is set in the environment, and not to 0)\n"
    "  --log-format FORMAT text or json (default: text)\n"
    "\n"
    "  --version           show the version and exit\n"
    "  -h, --help          show this and exit\n"
    "\n"
    "signals:\n"
    "  TERM, INT, HUP      finish what is in flight, for at most the drain time of\n"
    "                      the configuration, end the workers, and exit\n"
    "  TERM, INT again     kill the workers and exit at once\n"
    "\n"
    "exit codes:\n"
    "  0  it was told to end, or its only client, on stdin, went away\n"
    "  1  it could not start: the configuration, or a listener; or it was cut short\n"
    "  2  wrong use\n";

const char *abkd_help(void) { return help; }

bool abkd_wants_debug(const char *value)
{
    return value != NULL && value[0] != '\0' && strcmp(value, "0") != 0;
}

typedef enum {
    CONFIG, CONFIG_FD, STDIO, TCP, UNIX, ADMIN_UNIX, UNIX_MODE, TOKEN_FILE, INSECURE_TCP, STRICT,
    ADMIN_TCP, END_WITH_STDIN, CHECK_CONFIG, LOG_LEVEL, LOG_FORMAT, VERSION, HELP, REFUSED
} flag_id;

typedef struct abkd_flag {
    const char *name;
    const char *value; /* what to call its value; NULL: it has none */
    flag_id id;
} abkd_flag;

static const abkd_flag flags[] = {
    {"--config", "PATH", CONFIG},
    {"--config-fd", "N", CONFIG_FD},
    {"--stdio", NULL, STDIO},
    {"--tcp", "HOST:PORT", TCP},
    {"--unix", "PATH", UNIX},
    {"--admin-unix", "PATH", ADMIN_UNIX},
    {"--unix-mode", "OCTAL", UNIX_MODE},
    {"--admin-tcp", "HOST:PORT", ADMIN_TCP},
    {"--token-file", "PATH", TOKEN_FILE},
    {"--end-with-stdin", NULL, END_WITH_STDIN},
    {"--insecure-tcp", NULL, INSECURE_TCP},
    {"--strict", NULL, STRICT},
    {"--check-config", NULL, CHECK_CONFIG},
    {"--log-level", "LEVEL", LOG_LEVEL},
    {"--log-format", "FORMAT", LOG_FORMAT},
    {"--version", NULL, VERSION},
    {"--help", NULL, HELP},
    {"-h", NULL, HELP},
    /* What daemons of this kind may have, and this one does not. */
    {"--framing", NULL, REFUSED},
    {"--protocol", NULL, REFUSED},
    {"--transport", NULL, REFUSED},
    {"--shm", NULL, REFUSED},
    {"--mqueue", NULL, REFUSED},
};

typedef struct abkd_parser {
    abkd_options *out;
    char *error;
    size_t error_len;
    bool unix_mode_said, has_tcp, has_admin_tcp, has_unix;
} abkd_parser;

__attribute__((format(printf, 2, 3))) static int wrong(abkd_parser *parser, const char *format,
                                                       ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(parser->error, parser->error_len, format, arguments);
    va_end(arguments);
    for (char *at = parser->error; *at != '\0'; at++) { /* one line, whatever argv has in it */
        if ((unsigned char)*at < ' ')
            *at = '?';
    }
    return -1;
}

/* Digits of a base and nothing else, at most max; -1 otherwise. */
static long read_number(const char *text, int base, long max)
{
    long number = 0;
    if (*text == '\0')
        return -1;
    for (; *text != '\0'; text++) {
        const int digit = *text - '0';
        if (digit < 0 || digit >= base || number > (max - digit) / base)
            return -1;
        number = number * base + digit;
    }
    return number;
}

static abkd_address *add_address(abkd_parser *parser)
{
    abkd_options *out = parser->out;
    if (out->address_count == ABKD_LISTENERS) {
        wrong(parser, "more than %d listeners", ABKD_LISTENERS);
        return NULL;
    }
    return &out->addresses[out->address_count++];
}

static int read_tcp(abkd_parser *parser, const char *value, bool admin)
{
    const char *flag = admin ? "--admin-tcp" : "--tcp";
    const char *colon = strrchr(value, ':');
    if (colon == NULL)
        return wrong(parser, "%s %s: HOST:PORT is needed, 127.0.0.1:9000 for example", flag,
                     value);
    const long port = read_number(colon + 1, 10, UINT16_MAX);
    if (port < 0)
        return wrong(parser, "%s %s: the port is a number from 0 to 65535", flag, value);
    const char *host = value;
    size_t len = (size_t)(colon - value);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
        if (len == 0 || memchr(host, ':', len) == NULL)
            return wrong(parser, "%s %s: brackets are for an IPv6 address", flag, value);
    } else if (memchr(host, ':', len) != NULL) {
        return wrong(parser, "%s %s: an IPv6 address stands in brackets, [::1]:9000 for example",
                     flag, value);
    }
    if (len >= ABKD_HOST_BYTES)
        return wrong(parser, "%s: this host has more than %d characters", flag, ABKD_HOST_BYTES - 1);
    abkd_address *address = add_address(parser);
    if (address == NULL)
        return -1;
    memcpy(address->host, host, len);
    address->port = (uint16_t)port;
    address->admin = admin;
    parser->has_tcp = true;
    parser->has_admin_tcp = parser->has_admin_tcp || admin;
    return 0;
}

static int read_unix(abkd_parser *parser, const char *value, bool admin)
{
    abkd_address *address = add_address(parser);
    if (address == NULL)
        return -1;
    address->path = value;
    address->admin = admin;
    parser->has_unix = parser->has_unix || !admin;
    return 0;
}

static int read_config_fd(abkd_parser *parser, const char *value)
{
    const long fd = read_number(value, 10, INT_MAX);
    if (fd < 0)
        return wrong(parser, "--config-fd %s: the number of a file descriptor is needed", value);
    if (fd == 1 || fd == 2)
        return wrong(parser, "--config-fd %s: that is where the daemon writes", value);
    parser->out->config_fd = (int)fd;
    return 0;
}

static int read_unix_mode(abkd_parser *parser, const char *value)
{
    const long mode = read_number(value, 8, 0777);
    if (mode < 1)
        return wrong(parser, "--unix-mode %s: an octal mode from 0001 to 0777 is needed", value);
    parser->out->unix_mode = (unsigned)mode;
    parser->unix_mode_said = true;
    return 0;
}

static int read_log_level(abkd_parser *parser, const char *value)
{
    static const char names[][8] = {"debug", "info", "warning", "error"};
    for (int level = ABK_LOG_DEBUG; level <= ABK_LOG_ERROR; level++) {
        if (strcmp(value, names[level]) == 0) {
            parser->out->log_level = level;
            return 0;
        }
    }
    return wrong(parser, "--log-level %s: one of debug, info, warning, error is needed", value);
}

static int read_log_format(abkd_parser *parser, const char *value)
{
    parser->out->log_json = strcmp(value, "json") == 0;
    if (parser->out->log_json || strcmp(value, "text") == 0)
        return 0;
    return wrong(parser, "--log-format %s: text or json is needed", value);
}

static int take_flag(abkd_parser *parser, const abkd_flag *flag, const char *value)
{
    abkd_options *out = parser->out;
    switch (flag->id) {
    case CONFIG: out->config = value; return 0;
    case CONFIG_FD: return read_config_fd(parser, value);
    case STDIO: out->stdio = true; return 0;
    case TCP: return read_tcp(parser, value, false);
    case UNIX: return read_unix(parser, value, false);
    case ADMIN_UNIX: return read_unix(parser, value, true);
    case UNIX_MODE: return read_unix_mode(parser, value);
    case ADMIN_TCP: return read_tcp(parser, value, true);
    case END_WITH_STDIN: out->end_with_stdin = true; return 0;
    case TOKEN_FILE: out->token_file = value; return 0;
    case INSECURE_TCP: out->insecure_tcp = true; return 0;
    case STRICT: out->strict = true; return 0;
    case CHECK_CONFIG: out->action = ABKD_CHECK; return 0;
    case LOG_LEVEL: return read_log_level(parser, value);
    case LOG_FORMAT: return read_log_format(parser, value);
    case VERSION: out->action = ABKD_VERSION; return 0;
    case HELP: out->action = ABKD_HELP; return 0;
    case REFUSED: break;
    }
    return wrong(parser, "%s: there is no such choice here: all ends speak JSON-RPC, a line each;"
                 " use --stdio, --tcp or --unix", flag->name);
}

static const abkd_flag *find_flag(const char *name, size_t len)
{
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (strlen(flags[i].name) == len && memcmp(flags[i].name, name, len) == 0)
            return &flags[i];
    }
    return NULL;
}

/* Read the flag at argv[*at], and its value where it has one; *at goes to the last word read. */
static int read_flag(abkd_parser *parser, int argc, char **argv, int *at)
{
    const char *word = argv[*at], *value = strchr(word, '=');
    if (word[0] != '-' || word[1] == '\0')
        return wrong(parser, "unexpected argument %s", word);
    const size_t len = value == NULL ? strlen(word) : (size_t)(value - word);
    const abkd_flag *flag = find_flag(word, len);
    if (flag == NULL)
        return wrong(parser, "unknown flag %.*s", len > 200 ? 200 : (int)len, word);
    if (flag->id == REFUSED)
        return take_flag(parser, flag, NULL);
    if (flag->value == NULL)
        return value == NULL ? take_flag(parser, flag, NULL)
                             : wrong(parser, "%s takes no value", flag->name);
    if (value != NULL)
        value++;
    else if (*at + 1 < argc)
        value = argv[++*at];
    if (value == NULL || value[0] == '\0')
        return wrong(parser, "%s needs a value: %s", flag->name, flag->value);
    return take_flag(parser, flag, value);
}

/* What is right alone may be wrong together. */
static int check_whole(abkd_parser *parser)
{
    abkd_options *out = parser->out;
    out->stdio = out->stdio || out->address_count == 0;
    if (out->config != NULL && out->config_fd >= 0)
        return wrong(parser, "--config and --config-fd cannot be used together");
    if (out->config == NULL && out->config_fd < 0)
        return wrong(parser, "--config PATH is needed");
    out->config_line = out->config != NULL && strcmp(out->config, "-") == 0;
    if (out->action == ABKD_CHECK)
        return 0;
    if (out->config_fd == 0 && out->stdio)
        return wrong(parser, "--config-fd 0 and --stdio cannot both read stdin");
    out->token_line = out->token_file != NULL && strcmp(out->token_file, "-") == 0;
    if ((out->config_line || out->token_line) && (out->stdio || out->config_fd == 0))
        return wrong(parser, "%s - and %s cannot both read stdin",
                     out->config_line ? "--config" : "--token-file",
                     out->stdio ? "--stdio" : "--config-fd 0");
    if (out->end_with_stdin && out->config_fd == 0)
        return wrong(parser, "--end-with-stdin and --config-fd 0 cannot both read stdin");
    if (parser->has_admin_tcp && out->token_file == NULL)
        return wrong(parser, "--admin-tcp needs a token: --token-file");
    if (out->token_file != NULL && !parser->has_tcp)
        return wrong(parser, "--token-file is for --tcp, which is not there");
    if (out->insecure_tcp && !parser->has_tcp)
        return wrong(parser, "--insecure-tcp is for --tcp, which is not there");
    if (parser->unix_mode_said && !parser->has_unix)
        return wrong(parser, "--unix-mode is for --unix, which is not there");
    return 0;
}

int abkd_parse(int argc, char **argv, abkd_options *out, char *error, size_t error_len)
{
    abkd_parser parser = {.out = out, .error = error, .error_len = error_len};
    memset(out, 0, sizeof *out);
    out->config_fd = -1;
    out->log_level = -1;
    for (int at = 1; at < argc; at++) {
        if (read_flag(&parser, argc, argv, &at) < 0)
            return -1;
        if (out->action == ABKD_HELP || out->action == ABKD_VERSION)
            return 0;
    }
    return check_whole(&parser);
}
