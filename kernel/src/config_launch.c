/* As whom and with what limits the workers of a pool run: names become numbers here, before anything
 * starts. */
#include "config_inner.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#ifdef __GLIBC__
typedef __rlimit_resource_t resource_name; /* an enum there */
#else
typedef int resource_name;
#endif

enum { NAME_BYTES = 16 * 1024, MOST_GROUPS = 256 };

static bool fail(abk_reading *self, const char *owner, const char *field, const char *problem, const char *name)
{
    return abk_config_fail(self, owner, field, "%s: '%.80s'", problem, name);
}

/* --- rlimits --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int resource;
} resources[] = {
    {"as", RLIMIT_AS},         {"core", RLIMIT_CORE},     {"cpu", RLIMIT_CPU},
    {"data", RLIMIT_DATA},     {"fsize", RLIMIT_FSIZE},   {"memlock", RLIMIT_MEMLOCK},
    {"nofile", RLIMIT_NOFILE}, {"nproc", RLIMIT_NPROC},   {"rss", RLIMIT_RSS},
    {"stack", RLIMIT_STACK},
#ifdef __linux__
    {"msgqueue", RLIMIT_MSGQUEUE}, {"nice", RLIMIT_NICE},         {"rtprio", RLIMIT_RTPRIO},
    {"rttime", RLIMIT_RTTIME},     {"sigpending", RLIMIT_SIGPENDING},
#endif
};

static bool read_limit(abk_reading *self, const char *owner, const abk_json *value, rlim_t *out)
{
    if (value->kind == ABK_NULL) {
        *out = RLIM_INFINITY;
        return true;
    }
    if (value->kind != ABK_NUMBER || !value->integral || value->integer < 0)
        return abk_config_fail(self, owner, "rlimits",
                               "must be a number from 0, null, or the soft and the hard limit");
    *out = (rlim_t)value->integer;
    return true;
}

static bool read_rlimit(abk_reading *self, const char *owner, const abk_json *item, abk_rlimit *out)
{
    size_t i = 0;
    while (i < sizeof resources / sizeof *resources && !abk_json_is_named(item, resources[i].name))
        i++;
    if (i == sizeof resources / sizeof *resources)
        return fail(self, owner, "rlimits", "there is no such limit", item->name);
    out->resource = resources[i].resource;
    const bool pair = item->kind == ABK_ARRAY && item->len == 2;
    const abk_json *soft = pair ? item->first : item;
    const abk_json *hard = pair ? item->first->next : item;
    if (!read_limit(self, owner, soft, &out->limit.rlim_cur) ||
        !read_limit(self, owner, hard, &out->limit.rlim_max))
        return false;
    if (out->limit.rlim_cur > out->limit.rlim_max)
        return fail(self, owner, "rlimits", "the soft limit is above the hard one", item->name);
    struct rlimit now;
    if (geteuid() != 0 && getrlimit((resource_name)out->resource, &now) == 0 && out->limit.rlim_max > now.rlim_max)
        return fail(self, owner, "rlimits", "only root may go above the limit that is set", item->name);
    return true;
}

static bool read_rlimits(abk_reading *self, const char *owner, const abk_json *json, abk_launch *out)
{
    if (json == NULL)
        return true;
    if (!abk_config_is(self, owner, "rlimits", json, ABK_OBJECT))
        return false;
    out->rlimits = abk_arena_take(self->arena, (json->len + 1) * sizeof *out->rlimits);
    if (out->rlimits == NULL)
        return abk_config_no_memory(self);
    for (const abk_json *item = json->first; item != NULL; item = item->next) {
        if (!read_rlimit(self, owner, item, &out->rlimits[out->rlimit_count]))
            return false;
        out->rlimit_count++;
    }
    return true;
}

/* --- user and groups ------------------------------------------------------------------------- */

static bool read_id(abk_reading *self, const char *owner, const char *field, const abk_json *json, uint32_t *out)
{
    if (json->kind != ABK_NUMBER || !json->integral || json->integer < 0 || json->integer > UINT32_MAX - 1)
        return abk_config_fail(self, owner, field, "is neither a name nor an id");
    *out = (uint32_t)json->integer;
    return true;
}

static bool all_groups(abk_reading *self, abk_launch *out, const struct passwd *entry)
{
    int count = MOST_GROUPS;
    out->groups = abk_arena_take(self->arena, MOST_GROUPS * sizeof *out->groups);
    if (out->groups == NULL)
        return abk_config_no_memory(self);
#ifdef __APPLE__
    int listed[MOST_GROUPS];
    getgrouplist(entry->pw_name, (int)entry->pw_gid, listed, &count);
    for (int i = 0; i < count; i++)
        out->groups[i] = (gid_t)listed[i];
#else
    if (getgrouplist(entry->pw_name, entry->pw_gid, out->groups, &count) < 0)
        count = MOST_GROUPS;
#endif
    for (int i = 0; i < count; i++) { /* the primary one first */
        if (out->groups[i] == entry->pw_gid) {
            out->groups[i] = out->groups[0];
            out->groups[0] = entry->pw_gid;
        }
    }
    out->group_count = (uint32_t)count;
    return true;
}

static bool read_user(abk_reading *self, const char *owner, const abk_json *user, bool with_groups,
                      abk_launch *out)
{
    char buffer[NAME_BYTES];
    struct passwd entry;
    struct passwd *found = NULL;
    uint32_t id = 0;
    if (user->kind == ABK_STRING && strlen(user->text) == user->len)
        getpwnam_r(user->text, &entry, buffer, sizeof buffer, &found);
    else if (user->kind == ABK_STRING)
        found = NULL; /* no name has a NUL inside */
    else if (read_id(self, owner, "user", user, &id))
        getpwuid_r(id, &entry, buffer, sizeof buffer, &found);
    else
        return false;
    if (found == NULL && user->kind == ABK_STRING)
        return fail(self, owner, "user", "there is no user", user->text);
    if (found == NULL && with_groups)
        return abk_config_fail(self, owner, "user",
                               "there is no user %u in the system's list; give groups= as well", id);
    out->has_user = true;
    out->user = found != NULL ? entry.pw_uid : (uid_t)id;
    return !with_groups || all_groups(self, out, &entry);
}

static bool read_groups(abk_reading *self, const char *owner, const abk_json *groups, abk_launch *out)
{
    if (!abk_config_is(self, owner, "groups", groups, ABK_ARRAY))
        return false;
    if (groups->len == 0)
        return abk_config_fail(self, owner, "groups", "must name at least one, the primary group");
    out->groups = abk_arena_take(self->arena, groups->len * sizeof *out->groups);
    if (out->groups == NULL)
        return abk_config_no_memory(self);
    for (const abk_json *item = groups->first; item != NULL; item = item->next) {
        char buffer[NAME_BYTES];
        struct group entry;
        struct group *found = NULL;
        uint32_t id = 0;
        if (item->kind == ABK_STRING) {
            if (strlen(item->text) == item->len)
                getgrnam_r(item->text, &entry, buffer, sizeof buffer, &found);
            if (found == NULL)
                return fail(self, owner, "groups", "there is no group", item->text);
            id = (uint32_t)entry.gr_gid;
        } else if (!read_id(self, owner, "groups", item, &id)) {
            return false;
        }
        out->groups[out->group_count++] = (gid_t)id;
    }
    return true;
}

/* --- the rest -------------------------------------------------------------------------------- */

static bool read_umask(abk_reading *self, const char *owner, const abk_json *json, abk_launch *out)
{
    if (json == NULL || json->kind == ABK_NULL)
        return true;
    long mask = -1;
    if (json->kind == ABK_STRING) {
        char *end;
        mask = strtol(json->text + (strncmp(json->text, "0o", 2) == 0 ? 2 : 0), &end, 8);
        if (end == json->text || end != json->text + json->len || end[-1] == 'o')
            return fail(self, owner, "umask", "is not octal", json->text);
    } else if (json->kind == ABK_NUMBER && json->integral) {
        mask = (long)json->integer;
    }
    if (mask < 0 || mask > 0777)
        return abk_config_fail(self, owner, "umask", "must be within 0 and 0o777");
    out->has_umask = true;
    out->umask = (mode_t)mask;
    return true;
}

static bool read_nice(abk_reading *self, const char *owner, const abk_json *json, abk_launch *out)
{
    if (json == NULL)
        return true;
    if (json->kind != ABK_NUMBER || !json->integral || json->integer < -40 || json->integer > 40)
        return abk_config_fail(self, owner, "nice", "must be an integer within -40 and 40");
    out->nice = (int)json->integer;
    if (out->nice < 0 && geteuid() != 0)
        return abk_config_fail(self, owner, "nice", "only root may make it negative");
    return true;
}

bool abk_config_launch(abk_reading *self, const char *owner, const abk_json *pool, abk_launch *out)
{
    const abk_json *user = abk_json_member(pool, "user");
    const abk_json *groups = abk_json_member(pool, "groups");
    user = user != NULL && user->kind == ABK_NULL ? NULL : user;
    groups = groups != NULL && groups->kind == ABK_NULL ? NULL : groups;
    if (!read_rlimits(self, owner, abk_json_member(pool, "rlimits"), out) ||
        !read_nice(self, owner, abk_json_member(pool, "nice"), out) ||
        !read_umask(self, owner, abk_json_member(pool, "umask"), out))
        return false;
    if ((user != NULL || groups != NULL) && geteuid() != 0)
        return abk_config_fail(self, owner, user != NULL ? "user" : "groups", "only root may set it");
    return (user == NULL || read_user(self, owner, user, groups == NULL, out)) &&
           (groups == NULL || read_groups(self, owner, groups, out));
}
