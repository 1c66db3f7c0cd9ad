/* The memory of an agent: included by fleet_agent.h so that callers know its size. All fields are private. */
#ifndef FLEET_AGENT_STATE_H
#define FLEET_AGENT_STATE_H

#include "fleet_delta.h"
#include "fleet_mqtt.h"
#include "fleet_protocol.h"
#include "fleet_runtime.h"

#define FLEET_DIGEST_BYTES 32U
#define FLEET_ID_BYTES 16U
#define FLEET_KID_BYTES 8U
#define FLEET_ED25519_KEY_BYTES 32U
#define FLEET_P256_KEY_BYTES 33U
#define FLEET_ROOT_BYTES_MAX 512U
#define FLEET_WRAPPED_KEY_BYTES 96U
#define FLEET_CONTENT_KEY_BYTES 16U
#define FLEET_TAG_BYTES 16U
#define FLEET_IMAGES_NONE 0xFFU /* no counters */

/* ---- journal: keys, and the values in flash. Little-endian, no padding; sizes are held by static asserts in slots.c. ---- */

#define FLEET_JOURNAL_VALUE_MAX FLEET_ROOT_BYTES_MAX
enum { FLEET_KEY_DEVICE = 0, FLEET_KEY_ROOT = 1, FLEET_KEY_COMPONENTS = 2 }; /* then two keys a component: record, progress */
#define FLEET_COMPONENTS (FLEET_MODELS_MAX + FLEET_WITH_FIRMWARE)
#define FLEET_JOURNAL_KEYS (2U + 2U * FLEET_COMPONENTS) /* how many this build has; journal.c says how they lie in flash */

typedef struct {
    uint32_t at;
    uint16_t bytes;
} fleet_journal_value_t;

typedef struct {
    const fleet_flash_t *flash;
    uint32_t half_bytes;
    uint32_t generation;
    uint32_t newest; /* generation seen in either half */
    uint32_t tail;   /* where the next record goes */
    uint32_t last;   /* the record a new one names as the one before */
    fleet_journal_value_t values[FLEET_JOURNAL_KEYS];
    uint8_t half;
    uint8_t version; /* of the last record */
} fleet_journal_t;

/* An assignment: epoch, then sequence order them. The same pair with other bytes is refused. */
typedef struct {
    uint64_t epoch;
    uint64_t sequence;
    uint8_t id[FLEET_ID_BYTES]; /* of its digest */
} fleet_pair_t;

/* Kept once per device. */
typedef struct {
    fleet_pair_t followed;
    uint8_t nonce[8];
    uint8_t nonce_before[8];
    uint32_t boot;
    uint32_t command; /* newest carried out: its number, and the low byte of its epoch above it */
    uint32_t echo_age; /* steps of FLEET_ECHO_STEP_S since `nonce` is the newest, at most until it is stale */
    uint32_t reserved;
} fleet_device_record_t;

/* One slot of a component. Small fields stand first, here and below: the core reaches them with short instructions. */
typedef struct {
    uint8_t state;
    uint8_t reason;
    uint8_t until;
    uint8_t attempts;
    uint8_t failures; /* downloads */
    uint8_t intact;   /* the digest was read back from flash once and nothing was erased since */
    uint8_t undo;     /* TESTING came from fallback: the other slot ends REJECTED(UNDONE) */
    uint8_t reserved;
    uint32_t image_bytes;
    uint32_t release_counter;
    uint32_t security_floor;
    uint32_t confirm_min_inferences;
    uint32_t confirm_timeout_s;
    uint32_t latency_budget_us; /* 0 = none */
    uint32_t received_bytes;
    uint32_t reserved_word;
    uint64_t epoch; /* pair of the assignment that decided its state */
    uint64_t sequence;
    uint8_t manifest[FLEET_DIGEST_BYTES];
    uint8_t digest[FLEET_DIGEST_BYTES];
    uint8_t release_kid[FLEET_KID_BYTES];
} fleet_slot_record_t;

typedef struct {
    uint8_t active;
    uint8_t fallback;
    uint8_t reserved[2];
    uint32_t floor;
    fleet_slot_record_t slots[2];
} fleet_component_record_t;

/* How far the slot that is WRITING has come. */
typedef struct {
    uint8_t blob[FLEET_ID_BYTES];
    uint8_t manifest[FLEET_ID_BYTES]; /* head of the manifest digest: a record of another download is not followed */
    uint32_t input_bytes;             /* of the blob, consumed */
    uint32_t output_bytes;            /* of the image, programmed */
    uint32_t received_bytes;
    uint32_t spacing; /* of delta checkpoints */
} fleet_progress_record_t;

/* ---- messages ---- */

typedef struct {
    uint8_t bytes[FLEET_P256_KEY_BYTES];
    uint8_t count; /* FLEET_ED25519_KEY_BYTES or FLEET_P256_KEY_BYTES: says the algorithm */
    uint8_t kid[FLEET_KID_BYTES];
} fleet_key_t;

typedef struct {
    fleet_key_t keys[FLEET_ROOT_KEYS_MAX];
    uint8_t count;
} fleet_key_set_t;

typedef enum { FLEET_ROLE_ROOT, FLEET_ROLE_RELEASE, FLEET_ROLE_DIRECTOR, FLEET_ROLES } fleet_role_t;

typedef struct {
    uint32_t number;
    uint32_t threshold;
    uint64_t director_epoch;
    fleet_key_set_t keys[FLEET_ROLES]; /* no key in two of them */
} fleet_root_t;

/* An entry of the assignment followed. */
typedef struct {
    uint8_t until;
    uint8_t codec;
    bool present;
    bool has_base;
    bool encrypted;
    bool settled; /* nothing more to do for it under this sequence */
    uint16_t window_start_min;
    uint16_t window_minutes; /* 0 = any time */
    uint32_t confirm_min_inferences;
    uint32_t confirm_timeout_s;
    uint32_t latency_budget_us;
    uint32_t start_spread_s;
    uint64_t not_before;
#if FLEET_COMPONENTS > 1
    uint64_t brought_by; /* sequence of the assignment that brought it, 0 = the one followed now */
#endif
    uint32_t blob_bytes; /* from here to `blob`: what is fetched */
    uint32_t chunk_bytes;
    uint8_t manifest[FLEET_DIGEST_BYTES];
    uint8_t base[FLEET_DIGEST_BYTES];
    uint8_t blob[FLEET_ID_BYTES];
    uint8_t content_key[FLEET_WITH_ENCRYPTION ? FLEET_WRAPPED_KEY_BYTES : 1U];
} fleet_entry_t;

/* Known at once where this build opens nothing: such an entry is refused before any of it is fetched. */
static inline bool fleet_entry_is_encrypted(const fleet_entry_t *entry) {
    return FLEET_WITH_ENCRYPTION && entry->encrypted;
}

/* What a release manifest says. */
typedef struct {
    uint32_t release_counter;
    uint32_t security_floor;
    uint32_t image_bytes;
    uint8_t digest[FLEET_DIGEST_BYTES];
    uint8_t kid[FLEET_KID_BYTES];
} fleet_release_t;

/* ---- counters ---- */

typedef struct {
    uint32_t count[FLEET_LATENCY_BUCKETS];
    uint8_t bucket[FLEET_LATENCY_BUCKETS]; /* ascending */
    uint8_t used;
} fleet_histogram_t;

typedef struct {
    uint8_t role;
    bool used;
    uint32_t active_s; /* seconds of uptime that ended with it answering */
    uint32_t inferences;
    uint32_t labelled;
    uint32_t correct;
    uint32_t faults;
    uint32_t shadow_inferences;
    uint32_t shadow_agree;
    uint32_t shadow_pairs[4];
    uint32_t arena_bytes;
    uint32_t activations;
    uint8_t image[FLEET_ID_BYTES];
    uint32_t confidence[10];
    fleet_histogram_t latency;
    fleet_histogram_t shadow_latency;
    uint32_t predictions[FLEET_CLASSES_MAX];
} fleet_counters_t;

/* An answer whose truth may still come; its place in the ring is its id modulo the size. */
typedef struct {
    uint16_t active_class;
    uint16_t shadow_class;
    uint8_t active; /* index of counters + 1; 0 = free */
    uint8_t shadow; /* the same of the candidate beside it; 0 = none */
} fleet_label_slot_t;

/* Numbered by its place: events are kept in order, `event_number` is that of the next one. */
typedef struct {
    uint8_t kind;
    uint8_t component;
    uint8_t from;
    uint8_t to;
    uint8_t reason;
    uint16_t members; /* bits by key: what it says */
    uint32_t received_bytes;
    uint32_t detail;
    uint64_t sequence;
    uint8_t image[FLEET_ID_BYTES];
} fleet_event_t;

/* ---- one component ---- */

typedef struct {
    uint8_t answering;   /* slot, or FLEET_NO_SLOT */
    uint8_t budget_faults;
    uint8_t counters[2]; /* index of each slot's counters, or FLEET_IMAGES_NONE */
    bool usable[2];      /* opened and verified since boot */
    bool golden[2];      /* golden vectors passed since boot */
    fleet_component_record_t record; /* as in the journal */
    uint32_t shadow_position; /* in the cycle of runs and pauses */
    uint32_t test_inferences;
    uint32_t test_began_s; /* of uptime, as the next one */
    uint32_t retry_s;      /* back-off ends; 0 = none */
    uint32_t due_s;        /* the wait before the first chunk is over from here on, and one more; 0 = not drawn yet */
    fleet_model_t models[2];
    fleet_entry_t entry;
} fleet_component_t;

/* ---- one download at a time ---- */

typedef struct {
    uint8_t phase; /* fleet_download_phase_t in download.h */
    uint8_t slot;
    uint8_t window;
    uint8_t in_a_row;     /* chunks without loss, for the window to grow again */
    bool erasing;
    bool waiting;         /* told in `state` */
    fleet_component_t *component;
    const uint8_t *piece; /* chunk in `rx` that is not wholly used yet: no more input until then */
    uint32_t piece_bytes;
    uint32_t piece_used;
    uint32_t chunk;      /* next in order; 0 also stands for the manifest while that is fetched */
    uint32_t chunk_skip; /* bytes of it that a checkpoint already holds */
    uint32_t asked_end;  /* chunks below it are subscribed */
    uint32_t written;    /* image bytes programmed */
    uint32_t recorded;   /* of them, in the journal */
    uint32_t erased_end; /* slot bytes below it are erased or written */
    uint32_t received;   /* blob bytes of this download, over resets */
    uint32_t hashed;
    uint32_t progress_ms; /* last chunk in order */
    fleet_release_t release;
    uint8_t content_key[FLEET_WITH_ENCRYPTION ? FLEET_CONTENT_KEY_BYTES : 1U];
    uint8_t unit[FLEET_FLASH_UNIT_MAX];
    union { /* the image is decoded first and hashed then */
        struct {
            fleet_delta_config_t config;
            fleet_delta_t state;
        } delta;
        fleet_sha256_t sha;
    } work;
} fleet_download_t;

/*
 * What is reached most stands first: short instructions reach bytes up to 31 and words up to 127. Milliseconds wrap at 2^32: they
 * are compared by their difference, which stays below days; what takes longer counts seconds of uptime.
 */
struct fleet_agent {
    uint8_t link; /* link_state_t in link.c */
    uint8_t last_reason;
    uint8_t subscribed; /* own topics in this session: own_topic_t in link.c */
    bool began; /* the first step has set the clock */
    bool has_refused;
    bool stale;
    bool state_dirty;
    bool telemetry_due;
    bool stopping;
    bool reboot_asked; /* by a command; follows once its answer was acknowledged */
    bool entries_known;    /* an assignment was read since boot */
    bool reset_asked;      /* the firmware is to be swapped: nothing more of it is begun in this boot */
    bool trailer_fresh;    /* the firmware was swapped in for this boot, and nothing was written to its trailer since */
    bool met_broker;       /* a connection was accepted in this boot */
    bool acknowledge_owed; /* a message waits for room to acknowledge it */
    uint8_t event_first;
    uint8_t event_count;
    uint8_t counters_next; /* index of the counters that an image took last */
    uint8_t report_image;  /* index of the counters that the next report begins with */
    uint16_t input_used;
    uint16_t input_bytes;
    uint16_t uptime_rest_ms; /* of a second that is not over */
    uint32_t now_ms;
    uint32_t uptime_s;
    uint32_t link_due_ms; /* reconnect not before, or give up connecting at; a connection that stands by then has held */
    uint32_t report_due_ms;
    uint32_t echo_step_s; /* the last step of `echo_age` began then */
    uint32_t retry_delay_ms;
    uint32_t slot_bytes;
    uint32_t inference; /* last id given */
    uint32_t report;
    uint32_t event_number;
    fleet_agent_config_t config;
    uint64_t refused_sequence;
    fleet_device_record_t device;
    fleet_component_t components[FLEET_COMPONENTS];
    fleet_mqtt_t mqtt;
    fleet_journal_t journal;
    fleet_download_t download;
    fleet_root_t root;
    fleet_event_t events[FLEET_EVENT_RING];
    fleet_counters_t counters[FLEET_COUNTER_IMAGES];
    fleet_label_slot_t labels[FLEET_WITH_LABELS ? FLEET_LABEL_RING : 1];
    uint8_t input[512];
    uint8_t rx[FLEET_RX_BYTES];
    uint8_t tx[FLEET_TX_BYTES];
};

/* Components are passed around by where they lie. Builds of one know that, and its number. */
static inline fleet_component_t *fleet_component(fleet_agent_t *agent, uint8_t index) {
    return &agent->components[FLEET_COMPONENTS > 1 ? index : 0];
}

static inline uint8_t fleet_component_index(const fleet_agent_t *agent, const fleet_component_t *component) {
    return (uint8_t)(FLEET_COMPONENTS > 1 ? component - agent->components : 0);
}

static inline uint8_t fleet_models(const fleet_agent_t *agent) {
    return FLEET_MODELS_MAX > 1 ? agent->config.components : 1;
}

/* Components are 0 .. FLEET_COMPONENTS - 1; those that this device does not have are passed over. */
static inline bool fleet_has_component(const fleet_agent_t *agent, uint8_t index) {
    return index < fleet_models(agent) || (index == FLEET_FIRMWARE && index < FLEET_COMPONENTS && agent->config.firmware != NULL);
}

static inline bool fleet_is_firmware(const fleet_agent_t *agent, const fleet_component_t *component) {
    return FLEET_WITH_FIRMWARE && component == agent->components + FLEET_FIRMWARE;
}

/* Where the component's slots lie, and the room for one image. */
static inline const fleet_flash_t *fleet_component_flash(const fleet_agent_t *agent, const fleet_component_t *component) {
    return fleet_is_firmware(agent, component) ? agent->config.firmware->secondary : agent->config.flash;
}

static inline uint32_t fleet_component_room(const fleet_agent_t *agent, const fleet_component_t *component) {
    const fleet_flash_t *flash = fleet_component_flash(agent, component);
    return fleet_is_firmware(agent, component) ? flash->size - flash->erase_bytes : agent->slot_bytes;
}

#endif
