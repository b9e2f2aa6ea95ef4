/* The command line of the daemon: what each flag means, and what is refused in which words. */
#include "args.h"
#include "test.h"

#include <stdlib.h>

enum { MOST = 150 };
static abkd_options options;
static char error[256];

/* Parse words that are separated by single blanks. */
static int parse(const char *line)
{
    static char words[MOST * 16];
    char *argv[MOST] = {"anyio-busd"};
    int argc = 1;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL && argc < MOST; word = strtok(NULL, " "))
        argv[argc++] = word;
    error[0] = '\0';
    return abkd_parse(argc, argv, &options, error, sizeof error);
}

/* Parse what must be refused; returns why. */
static const char *refused(const char *line) { return parse(line) < 0 ? error : "accepted"; }

static void one_stdio_client_is_the_default(void)
{
    CHECK(parse("--config a.json") == 0);
    CHECK_TEXT(options.config, "a.json");
    CHECK(options.action == ABKD_RUN && options.stdio && options.address_count == 0);
    CHECK(options.config_fd == -1 && options.token_file == NULL && options.unix_mode == 0);
    CHECK(options.log_level == -1 && !options.log_json && !options.strict);
    CHECK(parse("--config a.json --tcp :1") == 0 && !options.stdio);
    CHECK(parse("--config a.json --tcp :1 --stdio") == 0 && options.stdio);
}

static void both_forms_of_a_value_are_one(void)
{
    CHECK(parse("--config=a=b.json --log-level=debug --log-format json --unix=/s") == 0);
    CHECK_TEXT(options.config, "a=b.json");
    CHECK(options.log_level == ABK_LOG_DEBUG && options.log_json);
    CHECK_TEXT(options.addresses[0].path, "/s");
    CHECK_TEXT(refused("--config"), "--config needs a value: PATH");
    CHECK_TEXT(refused("--config="), "--config needs a value: PATH");
    CHECK_TEXT(refused("--config a --stdio=yes"), "--stdio takes no value");
}

static void the_last_configuration_counts_and_one_is_needed(void)
{
    CHECK(parse("--config a --config b") == 0);
    CHECK_TEXT(options.config, "b");
    CHECK_TEXT(refused(""), "--config PATH is needed");
    CHECK_TEXT(refused("--config a --config-fd 3"),
               "--config and --config-fd cannot be used together");
    CHECK(parse("--config-fd 3") == 0 && options.config_fd == 3 && options.config == NULL);
    CHECK(parse("--config-fd 0 --unix /s") == 0 && options.config_fd == 0);
    CHECK_TEXT(refused("--config-fd 0"), "--config-fd 0 and --stdio cannot both read stdin");
    CHECK(parse("--config-fd 0 --check-config") == 0 && options.action == ABKD_CHECK);
    CHECK_TEXT(refused("--config-fd 2"), "--config-fd 2: that is where the daemon writes");
}

static void lines_of_stdin_are_for_one_reader(void)
{
    CHECK(parse("--config - --admin-tcp :1 --token-file - --end-with-stdin") == 0);
    CHECK(options.config_line && options.token_line && options.end_with_stdin && !options.stdio);
    CHECK(options.address_count == 1 && options.addresses[0].admin);
    CHECK(options.addresses[0].path == NULL && options.addresses[0].port == 1);
    CHECK(parse("--config a --tcp :1 --token-file b") == 0);
    CHECK(!options.config_line && !options.token_line && !options.end_with_stdin);
    CHECK(!options.addresses[0].admin);
    CHECK(parse("--config a --unix /s --stdio --end-with-stdin") == 0 && options.stdio);
    CHECK(parse("--config - --check-config") == 0 && options.config_line);
    CHECK_TEXT(refused("--config -"), "--config - and --stdio cannot both read stdin");
    CHECK_TEXT(refused("--config a --stdio --tcp :1 --token-file -"),
               "--token-file - and --stdio cannot both read stdin");
    CHECK_TEXT(refused("--config-fd 0 --tcp :1 --token-file -"),
               "--token-file - and --config-fd 0 cannot both read stdin");
    CHECK_TEXT(refused("--config-fd 0 --unix /s --end-with-stdin"),
               "--end-with-stdin and --config-fd 0 cannot both read stdin");
    CHECK_TEXT(refused("--config a --admin-tcp 127.0.0.1:1"),
               "--admin-tcp needs a token: --token-file");
    CHECK_TEXT(refused("--config a --admin-tcp 1"),
               "--admin-tcp 1: HOST:PORT is needed, 127.0.0.1:9000 for example");
}

static void file_descriptors_are_digits(void)
{
    const char *const lines[] = {"--config-fd -1", "--config-fd 3x", "--config-fd 0x3",
                                 "--config-fd +3", "--config-fd 2147483648"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        CHECK(strstr(refused(lines[i]), "the number of a file descriptor is needed") != NULL);
    CHECK(parse("--config-fd 2147483647") == 0 && options.config_fd == 2147483647);
}

static void tcp_addresses_are_names_numbers_and_ipv6_in_brackets(void)
{
    CHECK(parse("--config a --tcp localhost:9000 --tcp 127.0.0.1:0 --tcp [::1]:65535 --tcp :80") ==
          0);
    CHECK(options.address_count == 4);
    CHECK_TEXT(options.addresses[0].host, "localhost");
    CHECK(options.addresses[0].port == 9000 && options.addresses[0].path == NULL);
    CHECK_TEXT(options.addresses[1].host, "127.0.0.1");
    CHECK(options.addresses[1].port == 0);
    CHECK_TEXT(options.addresses[2].host, "::1");
    CHECK(options.addresses[2].port == 65535);
    CHECK_TEXT(options.addresses[3].host, "");
}

static void wrong_tcp_addresses_are_refused(void)
{
    CHECK_TEXT(refused("--config a --tcp 9000"),
               "--tcp 9000: HOST:PORT is needed, 127.0.0.1:9000 for example");
    CHECK_TEXT(refused("--config a --tcp ::1:9000"),
               "--tcp ::1:9000: an IPv6 address stands in brackets, [::1]:9000 for example");
    CHECK_TEXT(refused("--config a --tcp [a]:1"),
               "--tcp [a]:1: brackets are for an IPv6 address");
    CHECK_TEXT(refused("--config a --tcp []:1"), "--tcp []:1: brackets are for an IPv6 address");
    const char *const ports[] = {"a:", "a:9123x", "a:65536", "a:99999999999999999999", "a:-1",
                                 "a:+1"};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        char line[64];
        snprintf(line, sizeof line, "--config a --tcp %s", ports[i]);
        CHECK(strstr(refused(line), ": the port is a number from 0 to 65535") != NULL);
    }
    char line[400] = "--config a --tcp ";
    memset(line + strlen(line), 'h', 300);
    strcat(line, ":1");
    CHECK_TEXT(refused(line), "--tcp: this host has more than 255 characters");
}

static void socket_files_have_a_mode_and_admin_is_apart(void)
{
    CHECK(parse("--config a --unix /s --admin-unix /t --unix-mode 0660") == 0);
    CHECK(options.address_count == 2 && options.unix_mode == 0660);
    CHECK(!options.addresses[0].admin && options.addresses[1].admin);
    CHECK_TEXT(options.addresses[1].path, "/t");
    const char *const modes[] = {"0", "8", "1000", "rw", "-7"};
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        char text[64];
        snprintf(text, sizeof text, "--config a --unix /s --unix-mode %s", modes[i]);
        CHECK(strstr(refused(text), "an octal mode from 0001 to 0777 is needed") != NULL);
    }
    CHECK_TEXT(refused("--config a --admin-unix /s --unix-mode 600"),
               "--unix-mode is for --unix, which is not there");
}

static void what_is_for_tcp_needs_tcp(void)
{
    CHECK(parse("--config a --tcp :1 --token-file /t --insecure-tcp") == 0);
    CHECK(options.insecure_tcp);
    CHECK_TEXT(options.token_file, "/t");
    CHECK_TEXT(refused("--config a --token-file /t"),
               "--token-file is for --tcp, which is not there");
    CHECK_TEXT(refused("--config a --unix /s --insecure-tcp"),
               "--insecure-tcp is for --tcp, which is not there");
}

static void listeners_are_bounded(void)
{
    char line[2000] = "--config a";
    for (int i = 0; i < ABKD_LISTENERS; i++)
        strcat(line, " --unix /s");
    CHECK(parse(line) == 0 && options.address_count == ABKD_LISTENERS);
    strcat(line, " --unix /s");
    CHECK_TEXT(refused(line), "more than 64 listeners");
}

static void log_flags_have_their_words(void)
{
    CHECK(parse("--config a --log-level warning --log-format text") == 0);
    CHECK(options.log_level == ABK_LOG_WARNING && !options.log_json);
    CHECK_TEXT(refused("--config a --log-level WARN"),
               "--log-level WARN: one of debug, info, warning, error is needed");
    CHECK_TEXT(refused("--config a --log-format xml"), "--log-format xml: text or json is needed");
    CHECK(abkd_wants_debug("1") && abkd_wants_debug("00"));
    CHECK(!abkd_wants_debug("0") && !abkd_wants_debug("") && !abkd_wants_debug(NULL));
}

static void help_and_version_win_over_what_follows(void)
{
    CHECK(parse("--help --nonsense") == 0 && options.action == ABKD_HELP);
    CHECK(parse("-h") == 0 && options.action == ABKD_HELP);
    CHECK(parse("--stdio --version --config") == 0 && options.action == ABKD_VERSION);
    CHECK(parse("--nonsense --help") < 0);
}

static void what_does_not_exist_is_refused_by_name(void)
{
    CHECK_TEXT(refused("--config a --nonsense=1"), "unknown flag --nonsense");
    CHECK_TEXT(refused("--config a --conf b"), "unknown flag --conf");
    CHECK_TEXT(refused("--config a extra"), "unexpected argument extra");
    CHECK_TEXT(refused("--config a -"), "unexpected argument -");
    CHECK_TEXT(refused("--config a --"), "unknown flag --");
    const char *const names[] = {"--framing", "--protocol", "--transport", "--shm", "--mqueue"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[64];
        snprintf(line, sizeof line, "--config a %s=x", names[i]);
        const char *why = refused(line);
        CHECK(strncmp(why, names[i], strlen(names[i])) == 0);
        CHECK(strstr(why, "use --stdio, --tcp or --unix") != NULL);
    }
}

static void an_error_is_one_line_and_is_cut(void)
{
    char *argv[] = {"anyio-busd", "--config\n\x1b[31m", NULL};
    CHECK(abkd_parse(2, argv, &options, error, sizeof error) < 0);
    CHECK_TEXT(error, "unknown flag --config??[31m");
    CHECK(abkd_parse(2, argv, &options, error, 8) < 0);
    CHECK_TEXT(error, "unknown");
}

static void each_flag_stands_in_the_help(void)
{
    const char *const names[] = {
        "--config PATH", "--config-fd N", "--strict", "--check-config", "--stdio",
        "--tcp HOST:PORT", "--unix PATH", "--admin-unix PATH", "--unix-mode OCTAL",
        "--admin-tcp H:P", "--end-with-stdin", "--token-file PATH", "--insecure-tcp", "--log-level LEVEL", "--log-format FORMAT",
        "--version", "-h, --help"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char line[40];
        snprintf(line, sizeof line, "\n  %s ", names[i]);
        CHECK(strstr(abkd_help(), line) != NULL);
    }
    for (const char *at = abkd_help(), *end; (end = strchr(at, '\n')) != NULL; at = end + 1)
        CHECK(end - at <= 80);
}

TEST_MAIN(TEST(one_stdio_client_is_the_default), TEST(both_forms_of_a_value_are_one),
          TEST(the_last_configuration_counts_and_one_is_needed),
          TEST(lines_of_stdin_are_for_one_reader), TEST(file_descriptors_are_digits),
          TEST(tcp_addresses_are_names_numbers_and_ipv6_in_brackets),
          TEST(wrong_tcp_addresses_are_refused), TEST(socket_files_have_a_mode_and_admin_is_apart),
          TEST(what_is_for_tcp_needs_tcp), TEST(listeners_are_bounded),
          TEST(log_flags_have_their_words), TEST(help_and_version_win_over_what_follows),
          TEST(what_does_not_exist_is_refused_by_name), TEST(an_error_is_one_line_and_is_cut),
          TEST(each_flag_stands_in_the_help))
