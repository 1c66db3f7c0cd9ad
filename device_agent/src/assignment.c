#include "assignment.h"

#include <string.h>

#include "events.h"
#include "fields.h"
#include "ids.h"
#include "roots.h"

enum { MEMBERS = 0x3F, ENTRIES_MAX = 10, CHUNK_BYTES_MIN = 64, CHUNK_BYTES_MAX = 65536, DAY_MINUTES = 1440, UNKNOWN = 0xFF };
/* Integers on the wire stay below 2^53. */
#define UINT_MAX_WIRE ((UINT64_C(1) << 53) - 1U)

static const uint8_t SIGN1[] = {0xd2, 0x84};
static const uint8_t UNPROTECTED[] = {0xa0};

/* An entry's members that need a closer look. */
typedef struct {
    fleet_entry_t entry;
    fleet_cbor_t component;
    fleet_cbor_t window;
} listed_t;

static void read_window(fleet_cbor_t *in, fleet_entry_t *entry) {
    fleet_cbor_require(in, fleet_cbor_array(in) == 2);
    entry->window_start_min = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES - 1);
    entry->window_minutes = (uint16_t)fleet_cbor_u32(in, DAY_MINUTES);
    fleet_cbor_require(in, entry->window_minutes > 0);
}

/* A component's index; UNKNOWN when this device has none of that name. `rank` makes components ascend: "firmware", "model/0" .. */
static uint8_t read_component(const fleet_agent_t *agent, fleet_cbor_t *in, uint32_t *rank) {
    enum { NAME_BYTES_MAX = 16 };
    uint32_t bytes;
    const char *text = fleet_cbor_text(in, &bytes);
    fleet_cbor_require(in, bytes > 0 && bytes <= NAME_BYTES_MAX);
    for (uint8_t c = 0; c < FLEET_COMPONENTS; c++) {
        char own[FLEET_COMPONENT_NAME_BYTES];
        fleet_component_name(c, own);
        if (fleet_has_component(agent, c) && fleet_text_is(text, bytes, own)) {
            const uint32_t place = c == FLEET_FIRMWARE ? 1U : 2U + c;
            fleet_cbor_require(in, place > *rank);
            *rank = place;
            return c;
        }
    }
    return UNKNOWN;
}

static bool entry_consistent(const fleet_entry_t *entry) {
    return (entry->until == FLEET_SLOT_STATE_SHADOW || entry->until == FLEET_SLOT_STATE_CONFIRMED) && entry->blob_bytes > 0 &&
           entry->chunk_bytes >= CHUNK_BYTES_MIN && entry->chunk_bytes <= CHUNK_BYTES_MAX &&
           (!entry->has_base || entry->codec == FLEET_CODEC_DELTA);
}

/* Members that every entry must have, as bits by key. */
#define REQUIRED_MEMBERS 0x1E7FU

static uint8_t read_entry(const fleet_agent_t *agent, fleet_cbor_t *in, listed_t *listed, uint32_t *rank) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_AS(FLEET_KEY_ASSIGNMENT_ENTRY_COMPONENT, FLEET_FIELD_ITEM, listed_t, component),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_MANIFEST_DIGEST, listed_t, entry.manifest),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_UNTIL, listed_t, entry.until),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_MIN_INFERENCES, listed_t, entry.confirm_min_inferences),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CONFIRM_TIMEOUT_S, listed_t, entry.confirm_timeout_s),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_START_SPREAD_S, listed_t, entry.start_spread_s),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_NOT_BEFORE, listed_t, entry.not_before),
        FLEET_FIELD_AS(FLEET_KEY_ASSIGNMENT_ENTRY_WINDOW, FLEET_FIELD_ITEM, listed_t, window),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_BLOB, listed_t, entry.blob),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_BLOB_BYTES, listed_t, entry.blob_bytes),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CHUNK_BYTES, listed_t, entry.chunk_bytes),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_CODEC, listed_t, entry.codec),
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_BASE_DIGEST, listed_t, entry.base),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_LATENCY_BUDGET_US, listed_t, entry.latency_budget_us),
#if FLEET_COMPONENTS > 1
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_ENTRY_BROUGHT_BY, listed_t, entry.brought_by),
#endif
#if FLEET_WITH_ENCRYPTION
        FLEET_FIELD_STRING(FLEET_KEY_ASSIGNMENT_ENTRY_CONTENT_KEY, listed_t, entry.content_key),
#endif
    };
    fleet_entry_t *entry = &listed->entry;
    memset(listed, 0, sizeof *listed);
    const uint32_t seen = fleet_fields_read(in, listed, FLEET_FIELDS(fields));
    const uint8_t component = read_component(agent, &listed->component, rank);
    if ((seen >> FLEET_KEY_ASSIGNMENT_ENTRY_WINDOW & 1U) != 0) {
        read_window(&listed->window, entry);
    }
    entry->present = true;
    entry->has_base = (seen >> FLEET_KEY_ASSIGNMENT_ENTRY_BASE_DIGEST & 1U) != 0;
    entry->encrypted = (seen >> FLEET_KEY_ASSIGNMENT_ENTRY_CONTENT_KEY & 1U) != 0;
    fleet_cbor_require(in, !listed->component.bad && !listed->window.bad && (seen & REQUIRED_MEMBERS) == REQUIRED_MEMBERS && entry_consistent(entry));
    return component;
}

static fleet_reason_t read_entries(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_assignment_t *assignment) {
    const uint32_t count = fleet_cbor_array(in);
    uint32_t rank = 0;
    fleet_reason_t reason = FLEET_REASON_NONE;
    fleet_cbor_require(in, count <= ENTRIES_MAX);
    for (uint32_t i = 0; i < count && !in->bad; i++) {
        listed_t listed;
        const uint8_t component = read_entry(agent, in, &listed, &rank);
        if (component == UNKNOWN) {
            reason = FLEET_REASON_UNKNOWN_COMPONENT;
        } else if (listed.entry.codec > FLEET_CODEC_LAST_) {
            reason = FLEET_REASON_CODEC_UNKNOWN;
        } else {
            assignment->entries[component] = listed.entry;
        }
    }
    return reason;
}

/* Unknown members are passed. */
static fleet_reason_t read_content(const fleet_agent_t *agent, fleet_cbor_t *in, fleet_assignment_t *assignment) {
    static const fleet_field_t fields[] = {
        FLEET_FIELD_VALUE(FLEET_KEY_ASSIGNMENT_PROTOCOL, FLEET_PROTOCOL_VERSION),
        FLEET_FIELD_AS(FLEET_KEY_ASSIGNMENT_DEVICE, FLEET_FIELD_ITEM, fleet_assignment_t, device),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_DIRECTOR_EPOCH, fleet_assignment_t, pair.epoch),
        FLEET_FIELD(FLEET_KEY_ASSIGNMENT_SEQUENCE, fleet_assignment_t, pair.sequence),
        FLEET_FIELD_AS(FLEET_KEY_ASSIGNMENT_NONCE, FLEET_FIELD_ITEM, fleet_assignment_t, nonce),
        FLEET_FIELD_AS(FLEET_KEY_ASSIGNMENT_ENTRIES, FLEET_FIELD_ITEM, fleet_assignment_t, listed),
    };
    const uint32_t seen = fleet_fields_read(in, assignment, FLEET_FIELDS(fields));
    const bool here = fleet_cbor_is_text(&assignment->device, agent->config.device);
    const fleet_reason_t reason = read_entries(agent, &assignment->listed, assignment);
    if (!fleet_cbor_null(&assignment->nonce)) {
        assignment->echo = fleet_cbor_fixed(&assignment->nonce, sizeof agent->device.nonce);
    }
    if (!fleet_cbor_done(in) || assignment->device.bad || assignment->nonce.bad || assignment->listed.bad || (seen & MEMBERS) != MEMBERS ||
        assignment->pair.sequence > UINT_MAX_WIRE) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    return here ? reason : FLEET_REASON_ASSIGNMENT_OTHER_DEVICE;
}

bool fleet_nonce_is_known(const fleet_agent_t *agent, const uint8_t nonce[8]) {
    const fleet_device_record_t *device = &agent->device;
    return memcmp(nonce, device->nonce, sizeof device->nonce) == 0 || memcmp(nonce, device->nonce_before, sizeof device->nonce) == 0;
}

/* Whether the pair may be followed: higher, or the very same message again. */
static bool sequence_rises(const fleet_agent_t *agent, const fleet_pair_t *pair) {
    const fleet_pair_t *followed = &agent->device.followed;
    if (memcmp(pair, followed, sizeof *pair) == 0) {
        return true;
    }
    return pair->epoch != followed->epoch ? pair->epoch > followed->epoch : pair->sequence > followed->sequence;
}

/* What is signed is built around the payload where it lies: it begins FLEET_DIRECTOR_ROOM_BYTES before the message. */
fleet_reason_t fleet_director_open(const fleet_agent_t *agent, uint8_t *data, uint32_t bytes, fleet_cbor_t *content) {
    fleet_signature_t signature;
    fleet_signed_t payload;
    uint32_t content_bytes;
    fleet_cbor_t in = fleet_cbor_reader(data, bytes);
    fleet_cbor_expect(&in, SIGN1, sizeof SIGN1);
    fleet_signature_read_header(&in, &signature);
    fleet_cbor_expect(&in, UNPROTECTED, sizeof UNPROTECTED);
    payload.data = in.at;
    const uint8_t *first = fleet_cbor_bytes(&in, &content_bytes);
    payload.bytes = (uint32_t)(in.at - payload.data);
    fleet_signature_read_bytes(&in, &signature);
    if (!fleet_cbor_done(&in)) {
        return FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    const fleet_key_t *key = fleet_key_find(&agent->root.keys[FLEET_ROLE_DIRECTOR], signature.kid);
    *content = fleet_cbor_reader(first, content_bytes);
    return fleet_signature_valid(agent->config.crypto, key, &signature, FLEET_SIGN1, payload, data - FLEET_DIRECTOR_ROOM_BYTES)
               ? FLEET_REASON_NONE
               : FLEET_REASON_ASSIGNMENT_SIGNATURE;
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
    fleet_id_copy(assignment->pair.id, digest);
    reason = read_content(agent, &content, assignment);
    if (reason == FLEET_REASON_ASSIGNMENT_MALFORMED || reason == FLEET_REASON_ASSIGNMENT_OTHER_DEVICE) {
        return reason;
    }
    if (assignment->pair.epoch != agent->root.director_epoch || !sequence_rises(agent, &assignment->pair)) {
        return FLEET_REASON_ASSIGNMENT_OLD_SEQUENCE;
    }
    return assignment->echo == NULL || fleet_nonce_is_known(agent, assignment->echo) ? reason : FLEET_REASON_ASSIGNMENT_STALE_NONCE;
}
