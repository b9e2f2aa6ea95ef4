/* What the parts of the configuration's reader share. */
#ifndef ABK_CONFIG_INNER_H
#define ABK_CONFIG_INNER_H

#include "config.h"
#include "json.h"

typedef struct abk_reading {
    abk_arena *arena;
    abk_config *config;
    abk_error *error;
    bool strict;
} abk_reading;

typedef enum { ABK_F_U32, ABK_F_U64, ABK_F_SECONDS, ABK_F_CHOICE, ABK_F_BOOL, ABK_F_OTHER } abk_field_type;
typedef enum { ABK_B_ANY, ABK_B_POSITIVE, ABK_B_NATURAL } abk_bound;

typedef struct abk_field {
    const char *name;
    uint8_t type;
    uint8_t bound;
    size_t offset;
    uint64_t most;     /* of a number; 0: what its type holds */
    const char *names; /* of a choice, with | between them */
} abk_field;

/* All return false, with self->error filled. */
bool abk_config_fail(abk_reading *self, const char *owner, const char *field, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
bool abk_config_no_memory(abk_reading *self);
const char *abk_kind_name(const abk_json *value);
bool abk_config_is(abk_reading *self, const char *owner, const char *field, const abk_json *value,
                   abk_kind kind);
bool abk_config_client_only(abk_reading *self, const char *path, const char *key);
bool abk_config_field(abk_reading *self, const char *owner, const abk_field *field,
                      const abk_json *value, void *target);
bool abk_config_object(abk_reading *self, const char *owner, const char *path, const abk_json *object,
                       const abk_field *fields, size_t count, void *target);
bool abk_config_pool(abk_reading *self, const abk_json *pool, uint32_t index, abk_pool_config *out);
bool abk_config_launch(abk_reading *self, const char *owner, const abk_json *pool, abk_launch *out);

#endif
