#include "assignment.h"

#include <string.h>

#include "fields.h"
#include "roots.h"

enum { ENTRIES_MAX = 10, CHUNK_BYTES_MIN = 64, CHUNK_BYTES_MAX = 65536, DAY_MINUTES = 1440, UNKNOWN = 0xFF };
/* Integers on the wire stay below 2^53. */
#define UINT_MAX_WIRE ((UINT64_C(1) << 53) - 1U)

static const uint8_t SIGN1[] = {0xd2, 0x84};
static const uint8_t UNPROTECTED[] = {0xa0};

typedef struct {
    fleet_signature_t signature;
    fleet_signed_t payload;
    const uint8_t *content; /* of the payload */
    uint32_t content_bytes;
} sign1_t;

static bool open_sign1(const uint8_t *data, uint32_t bytes, sign1_t *message) {
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    fleet_cbor_expect(&in, SIGN1, sizeof SIGN1);
    fleet_signature_read_header(&in, &message->signature);
    fleet_cbor_expect(&in, UNPROTECTED, sizeof UNPROTECTED);
    message->payload.data = in.at;
    message->content = fleet_cbor_bytes(&in, &message->content_bytes);
    message->payload.bytes = (uint32_t)(in.at - message->payload.data);
    fleet_signature_read_bytes(&in, &message->signature);
    return fleet_cbor_done(&in);
}

static void read_window(fleet_cbor_t *in, fleet_entry_t *entry) {
    fleet_cbor_require(in, fleet_cbor_array(in) == 2);
    entry->window_start_min = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES - 1);
    entry->window_minutes = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES);
    fleet_cbor_require(in, entry->window_minutes > 0);
}

/* A component's index; UNKNOWN when this device has none of that name. `rank` makes components ascend: "firmware", "model/0" .. */
static uint8_t read_component(const fleet_agent_t *agent, fleet_cbor_t *in, uint32_t *rank) {
    static const char firmware[8] = {'f', 'i', 'r', 'm', 'w', 'a', 'r', 'e'};
    static const char model[6] = {'m', 'o', 'd', 'e', 'l', '/'};
    enum { NAME_BYTES_MAX = 16 };
    uint32_t bytes;
    const char *text = fleet_cbor_text(in, &bytes);
    uint8_t index = UNKNOWN;
    uint32_t place;
    fleet_cbor_require(in, bytes > 0 && bytes <= NAME_BYTES_MAX);
    if (bytes == sizeof firmware && memcmp(text, firmware, bytes) == 0) {
        index = fleet_has_component(agent, FLEET_FIRMWARE) ? FLEET_FIRMWARE : UNKNOWN;
        place = 1;
    } else if (bytes == sizeof model + 1U && memcmp(text, model, sizeof model) == 0 && text[6] >= '0' && text[6] <= '9') {
        place = 2U + (uint32_t)(text[6] - '0');
        index = place - 2U < fleet_models(agent) ? (uint8_t)(place - 2U) : UNKNOWN;
    } else {
        return UNKNOWN;
    }
    fleet_cbor_require(in, place > *rank);
    *rank = place;
    return index;
}

static bool entry_consistent(const fleet_entry_t *entry) {
    return (entry->until == FLEET_SLOT_STATE_SHADOW || entry->until == FLEET_SLOT_STATE_CONFIRMED) && entry->blob_bytes > 0 &&
           entry->chunk_bytes >= CHUNK_BYTES_MIN && entry->chunk_bytes <= CHUNK_BYTES_MAX &&
           (!entry->has_base || entry->codec == FLEET_CODEC_DELTA);
}

/* Members that every entry must have, as bits by key. */
#define REQUIRED_MEMBERS 0x1E7FU

static uint8_t read_entry(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_entry_t *entry, uint32_t *order) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_MANIFEST_DIGEST, fleet_entry_t, manifest),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_UNTIL, fleet_entry_t, until),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_MIN_INFERENCES, fleet_entry_t, confirm_min_inferences),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_TIMEOUT_S, fleet_entry_t, confirm_timeout_s),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_START_SPREAD_S, fleet_entry_t, start_spread_s),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_NOT_BEFORE, fleet_entry_t, not_before),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_BLOB, fleet_entry_t, blob),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_BLOB_BYTES, fleet_entry_t, blob_bytes),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CHUNK_BYTES, fleet_entry_t, chunk_bytes),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CODEC, fleet_entry_t, codec),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_BASE_DIGEST, fleet_entry_t, base),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_LATENCY_BUDGET_US, fleet_entry_t, latency_budget_us),
#if FLEET_COMPONENTS > 1
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_BROUGHT_BY, fleet_entry_t, brought_by),
#endif
#if FLEET_WITH_ENCRYPTION
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_CONTENT_KEY, fleet_entry_t, content_key),
#endif
    };
    fleet_cbor_map_t map = fleet_cbor_map(in);
    uint8_t component = UNKNOWN;
    memset(entry, 0, sizeof *entry);
    while (fleet_cbor_next(in, &map)) {
        if (map.key == FLEET_KEY_ASSIGNMENT_ENTRY_COMPONENT) {
            component = read_component(agent, in, order);
        } else if (map.key == FLEET_KEY_ASSIGNMENT_ENTRY_WINDOW) {
            read_window(in, entry);
        } else if (!fleet_fields_take(in, map.key, entry, FLEET_FIELDS(fields))) {
            fleet_cbor_skip(in);
        }
    }
    entry->present = true;
    entry->has_base = (map.seen >> FLEET_KEY_ASSIGNMENT_ENTRY_BASE_DIGEST & 1U) != 0;
    entry->encrypted = (map.seen >> FLEET_KEY_ASSIGNMENT_ENTRY_CONTENT_KEY & 1U) != 0;
    fleet_cbor_require(in, (map.seen & REQUIRED_MEMBERS) == REQUIRED_MEMBERS && entry_consistent(entry));
    return component;
}

static fleet_reason_t read_entries(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_assignment_t *assignment) {
    const uint32_t count = fleet_cbor_array(in);
    uint32_t order = 0;
    fleet_reason_t reason = FLEET_REASON_NONE;
    fleet_cbor_require(in, count <= ENTRIES_MAX);
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        fleet_entry_t entry;
        const uint8_t component = read_entry(agent, in, &entry, &order);
        if (component == UNKNOWN) {
            reason = FLEET_REASON_UNKNOWN_COMPONENT;
        } else if (entry.codec > FLEET_CODEC_LAST_) {
            reason = FLEET_REASON_CODEC_UNKNOWN;
        } else {
            assignment->entries[component] = entry;
        }
    }
    return reason;
}

bool fleet_names_this_device(const fleet_agent_t *agent, fleet_cbor_t *in) {
    const char *device = agent->config.device;
    uint32_t bytes;
    const char *text = fleet_cbor_text(in, &bytes);
    return bytes == strlen(device) && memcmp(text, device, bytes) == 0;
}

/* The members in order; unknown ones are skipped. */
static fleet_reason_t read_content(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_assignment_t *assignment) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_ASSIGNMENT_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_DIRECTOR_EPOCH, fleet_assignment_t, epoch),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_SEQUENCE, fleet_assignment_t, sequence),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_NONCE, fleet_assignment_t, nonce),
    };
    fleet_cbor_map_t map = fleet_cbor_map(in);
    fleet_reason_t reason = FLEET_REASON_NONE;
    bool other_device = false;
    assignment->has_nonce = true;
    while (fleet_cbor_next(in, &map)) {
        if (map.key == FLEET_KEY_ASSIGNMENT_DEVICE) {
            other_device = !fleet_names_this_device(agent, in);
        } else if (map.key == FLEET_KEY_ASSIGNMENT_ENTRIES) {
            reason = read_entries(agent, in, assignment);
        } else if (map.key == FLEET_KEY_ASSIGNMENT_NONCE && fleet_cbor_null(in)) {
            assignment->has_nonce = false;
        } else if (!fleet_fields_take(in, map.key, assignment, FLEET_FIELDS(fields))) {
            fleet_cbor_skip(in);
        }
    }
    if (!fleet_cbor_done(in) || (map.seen & 0x3FU) != 0x3FU || assignment->sequence > UINT_MAX_WIRE) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    return other_device ? FLEET_REASON_ASSIGNMENT_OTHER_DEVICE : reason;
}

bool fleet_nonce_is_known(const fleet_agent_t *agent, const uint8_t nonce[8]) {
    const fleet_device_record_t *device = &agent->device;
    return memcmp(nonce, device->nonce, sizeof device->nonce) == 0 || memcmp(nonce, device->nonce_before, sizeof device->nonce) == 0;
}

/* Whether the pair may be followed: higher, or the very same message again. */
static bool sequence_rises(const fleet_agent_t *agent, const fleet_assignment_t *assignment) {
    const fleet_device_record_t *device = &agent->device;
    if (assignment->epoch != device->epoch) {
        return assignment->epoch > device->epoch;
    }
    return assignment->sequence > device->sequence ||
           (assignment->sequence == device->sequence && memcmp(assignment->id, device->assignment, FLEET_ID_BYTES) == 0);
}

/* What is signed is built where the message lies, which has room for it: it ends in the signature, which is copied before. */
static bool signature_valid(const fleet_agent_t *agent, uint8_t *data, sign1_t *message) {
    const fleet_key_t *key = fleet_key_find(&agent->root.director_keys, message->signature.kid);
    const uint32_t head = (uint32_t)(message->content - message->payload.data);
    const bool valid =
        fleet_signature_valid(agent->config.crypto, key, &message->signature, FLEET_SIGN1, message->payload, data);
    message->content = data + FLEET_SIGNED_HEAD_BYTES + head;
    return valid;
}

fleet_reason_t fleet_director_open(const fleet_agent_t *agent, uint8_t *data, uint32_t bytes, fleet_cbor_t *content) {
    sign1_t message;
    if (!open_sign1(data, bytes, &message)) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    if (!signature_valid(agent, data, &message)) {
        return FLEET_REASON_ASSIGNMENT_SIGNATURE;
    }
    *content = fleet_cbor_reader(message.content, message.content_bytes);
    return FLEET_REASON_NONE;
}

fleet_reason_t fleet_assignment_read(const fleet_agent_t *agent, uint8_t *data, uint32_t bytes, fleet_assignment_t *assignment) {
    fleet_cbor_t content;
    uint8_t digest[FLEET_DIGEST_BYTES];
    memset(assignment, 0, sizeof *assignment);
    fleet_sha256(agent->config.crypto, data, bytes, digest);
    fleet_reason_t reason = fleet_director_open(agent, data, bytes, &content);
    if (reason != FLEET_REASON_NONE) {
        return reason;
    }
    memcpy(assignment->id, digest, FLEET_ID_BYTES);
    reason = read_content(agent, &content, assignment);
    if (reason == FLEET_REASON_ASSIGNMENT_MALFORMED || reason == FLEET_REASON_ASSIGNMENT_OTHER_DEVICE) {
        return reason;
    }
    if (assignment->epoch != agent->root.director_epoch || !sequence_rises(agent, assignment)) {
        return FLEET_REASON_ASSIGNMENT_OLD_SEQUENCE;
    }
    return !assignment->has_nonce || fleet_nonce_is_known(agent, assignment->nonce) ? reason : FLEET_REASON_ASSIGNMENT_STALE_NONCE;
}
