#include "download.h"

#include <string.h>

#include "compact.h"
#include "content_key.h"
#include "events.h"
#include "firmware.h"
#include "flash_area.h"
#include "ids.h"
#include "image_writer.h"
#include "journal.h"
#include "link.h"
#include "manifest.h"
#include "roots.h"
#include "slot_rules.h"
#include "slots.h"
#include "topics.h"

/* A chunk packet is topic, length of topic and payload. */
#define CHUNK_BYTES_MAX ((uint32_t)(FLEET_RX_BYTES - FLEET_TOPIC_CHUNK_SIZE - 4))
#define GROW_AFTER_CHUNKS 16U

FLEET_APART static fleet_download_t *download_of(fleet_agent_t *agent) {
    return &agent->download;
}

static const fleet_entry_t *entry_of(const fleet_agent_t *agent) {
    return &agent->download.component->entry;
}

FLEET_APART static fleet_slot_record_t *slot_of(fleet_agent_t *agent) {
    return &agent->download.component->record.slots[agent->download.slot];
}

static uint32_t chunk_size(const fleet_entry_t *entry, uint32_t chunk) {
    const uint32_t rest = entry->blob_bytes - chunk * entry->chunk_bytes;
    return rest < entry->chunk_bytes ? rest : entry->chunk_bytes;
}

/* ---- subscriptions ---- */

/* Of a chunk, or of the manifest: that is fetched as if it were the only one. */
FLEET_APART static void write_topic(const fleet_agent_t *agent, uint32_t chunk, char topic[FLEET_TOPIC_BYTES]) {
    const fleet_entry_t *entry = entry_of(agent);
    const uint32_t numbers[2] = {entry->chunk_bytes, chunk};
    const bool manifest = agent->download.phase == FLEET_DOWNLOAD_MANIFEST;
    fleet_topic_of_id(topic, manifest ? FLEET_TOPIC_MANIFEST : FLEET_TOPIC_CHUNK, manifest ? entry->manifest : entry->blob, numbers);
}

/* A full queue only leaves a subscription behind that brings nothing new: not worth a retry. */
static void unsubscribe(fleet_agent_t *agent, uint32_t chunk) {
    char topic[FLEET_TOPIC_BYTES];
    write_topic(agent, chunk, topic);
    (void)fleet_mqtt_unsubscribe(&agent->mqtt, topic);
}

static void unsubscribe_all(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    while (download->asked_end > download->chunk) {
        unsubscribe(agent, --download->asked_end);
    }
}

FLEET_APART static void set_waiting(fleet_agent_t *agent, bool waiting) {
    if (agent->download.waiting != waiting) {
        agent->download.waiting = waiting;
        agent->state_dirty = true;
    }
}

void fleet_download_stop(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    if (download->phase == FLEET_DOWNLOAD_IDLE) {
        return;
    }
    unsubscribe_all(agent);
    set_waiting(agent, false);
    fleet_image_writer_settle(agent);
    download->piece = NULL;
    download->phase = FLEET_DOWNLOAD_IDLE;
}

/* The entry cannot be followed; nothing in flash has changed. */
static void refuse(fleet_agent_t *agent, fleet_reason_t reason) {
    fleet_component_t *component = agent->download.component;
    fleet_refuse(agent, component, fleet_entry_sequence(agent, component), reason);
    fleet_download_stop(agent);
    component->entry.settled = true;
}

uint32_t fleet_download_backoff_s(uint32_t failures) {
    uint32_t seconds = FLEET_BACKOFF_S;
    for (uint32_t i = FLEET_DOWNLOADS_MAX; i < failures && seconds < FLEET_BACKOFF_MAX_S; i++) {
        seconds *= 2U;
    }
    return seconds < FLEET_BACKOFF_MAX_S ? seconds : FLEET_BACKOFF_MAX_S;
}

/* ---- FETCH: beginning, resuming, failing ---- */

static void seek(fleet_agent_t *agent, uint32_t input, uint32_t output) {
    fleet_download_t *download = download_of(agent);
    const uint32_t chunk_bytes = fleet_plain_chunk_bytes(entry_of(agent));
    download->chunk = input / chunk_bytes;
    download->chunk_skip = input % chunk_bytes;
    download->asked_end = download->chunk;
    download->piece = NULL;
    download->window = FLEET_WINDOW;
    download->in_a_row = 0;
    download->progress_ms = agent->now_ms;
    fleet_image_writer_seek(agent, output);
}

static uint8_t progress_key(const fleet_agent_t *agent) {
    return (uint8_t)(FLEET_RECORD_KEY(fleet_component_index(agent, agent->download.component)) + 1U);
}

static bool record_progress(fleet_agent_t *agent, uint32_t input, uint32_t output, uint32_t spacing) {
    fleet_download_t *download = download_of(agent);
    fleet_progress_record_t progress;
    memset(&progress, 0, sizeof progress);
    fleet_id_copy(progress.blob, entry_of(agent)->blob);
    fleet_id_copy(progress.manifest, entry_of(agent)->manifest);
    progress.input_bytes = input;
    progress.output_bytes = output;
    progress.received_bytes = download->received;
    progress.spacing = spacing;
    if (fleet_journal_write(&agent->journal, progress_key(agent), &progress, sizeof progress) != FLEET_OK) {
        return false;
    }
    download->recorded = output;
    return true;
}

FLEET_APART static bool change_slot(fleet_agent_t *agent, fleet_change_t change) {
    return fleet_slots_change(agent, agent->download.component, agent->download.slot, change);
}

static bool start_over(fleet_agent_t *agent) {
    seek(agent, 0, 0);
    return record_progress(agent, 0, 0, 0) && fleet_image_writer_begin(agent, NULL) == FLEET_OK;
}

/* A download came to a bad end: counted, then from the manifest on again, or REJECTED with back-off. */
static void fail(fleet_agent_t *agent, fleet_reason_t reason) {
    fleet_download_t *download = download_of(agent);
    fleet_component_t *component = download->component;
    const uint8_t slot = download->slot;
    fleet_event_t *event = fleet_event(agent, component, FLEET_EVENT_KIND_DOWNLOAD, reason);
    event->detail = download->written;
    event->members |= FLEET_EVENT_HAS(DETAIL);
    fleet_image_writer_settle(agent);
    const bool stored = record_progress(agent, 0, 0, 0) && change_slot(agent, FLEET_FOR(FLEET_FAIL, reason));
    const uint8_t failures = component->record.slots[slot].failures;
    fleet_download_stop(agent);
    if (stored && failures < FLEET_DOWNLOADS_MAX) {
        fleet_download_start(agent, component, slot);
    } else {
        component->retry_s = agent->uptime_s + fleet_download_backoff_s(failures);
    }
}

static bool progress_of_this(const fleet_agent_t *agent, fleet_progress_record_t *progress) {
    const fleet_download_t *download = &agent->download;
    const fleet_entry_t *entry = entry_of(agent);
    uint32_t bytes;
    return fleet_journal_read(&agent->journal, progress_key(agent), progress, sizeof *progress, &bytes) == FLEET_OK && bytes == sizeof *progress &&
           fleet_id_same(progress->blob, entry->blob) &&
           fleet_id_same(progress->manifest, entry->manifest) && progress->input_bytes <= entry->blob_bytes &&
           progress->output_bytes <= download->release.image_bytes;
}

static bool resumable(fleet_agent_t *agent, fleet_progress_record_t *progress) {
    const fleet_slot_record_t *slot = slot_of(agent);
    return slot->state == FLEET_SLOT_STATE_WRITING &&
           fleet_digest_same(slot->manifest, entry_of(agent)->manifest) && progress_of_this(agent, progress);
}

static bool resume(fleet_agent_t *agent, const fleet_progress_record_t *progress) {
    fleet_download_t *download = download_of(agent);
    seek(agent, progress->input_bytes, progress->output_bytes);
    download->received = progress->received_bytes;
    download->recorded = progress->output_bytes;
    return fleet_image_writer_begin(agent, progress) == FLEET_OK;
}

/* The journal first, then the first erase: a cut in between leaves WRITING with nothing written. */
static void begin_fetch(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    fleet_progress_record_t progress;
    const bool resuming = resumable(agent, &progress);
    download->phase = FLEET_DOWNLOAD_FETCH;
    download->received = 0;
    if (resuming && resume(agent, &progress) && change_slot(agent, FLEET_FOLLOW)) {
        return;
    }
    if (!start_over(agent) || !change_slot(agent, FLEET_BEGIN) ||
        (fleet_is_firmware(agent, download->component) && fleet_firmware_forget_pending(agent) != FLEET_OK)) {
        fail(agent, FLEET_REASON_FLASH_FAILED);
    }
}

/* ---- MANIFEST and WAIT ---- */

void fleet_download_start(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    fleet_download_stop(agent);
    fleet_download_t *download = download_of(agent);
    memset(download, 0, sizeof *download);
    download->component = component;
    download->slot = slot;
    download->window = 1;
    download->progress_ms = agent->now_ms;
    download->phase = FLEET_DOWNLOAD_MANIFEST;
}

void fleet_download_restage(fleet_agent_t *agent, fleet_component_t *component, uint8_t slot) {
    fleet_download_start(agent, component, slot);
    fleet_download_t *download = download_of(agent);
    const fleet_slot_record_t *record = slot_of(agent);
    fleet_digest_copy(download->release.digest, record->digest);
    download->release.image_bytes = record->image_bytes;
    download->written = record->image_bytes;
    download->phase = FLEET_DOWNLOAD_HASH;
}

bool fleet_download_runs(const fleet_agent_t *agent, const fleet_component_t *component) {
    return agent->download.phase != FLEET_DOWNLOAD_IDLE && agent->download.component == component;
}

bool fleet_download_holds_input(const fleet_agent_t *agent) {
    return agent->download.piece != NULL;
}

void fleet_download_online(fleet_agent_t *agent) {
    agent->download.asked_end = agent->download.chunk;
    agent->download.progress_ms = agent->now_ms;
}

/* What the assignment says of the transfer, against what this device can take. */
static fleet_reason_t check_transfer(fleet_agent_t *agent) {
    fleet_download_t *download = &agent->download;
    const fleet_entry_t *entry = entry_of(agent);
    const fleet_component_t *component = download->component;
    const uint8_t base = download->slot ^ 1U;
    if (entry->chunk_bytes > CHUNK_BYTES_MAX) {
        return FLEET_REASON_IMAGE_TOO_LARGE;
    }
    if (entry->encrypted && !(FLEET_WITH_ENCRYPTION && fleet_content_key_open(agent, entry, download->content_key))) {
        return FLEET_REASON_CONTENT_KEY;
    }
    if (entry->codec == FLEET_CODEC_RAW) {
        return fleet_plain_blob_bytes(entry) == download->release.image_bytes ? FLEET_REASON_NONE : FLEET_REASON_ASSIGNMENT_MALFORMED;
    }
    if (!entry->has_base) {
        return FLEET_REASON_NONE; /* a packed full image */
    }
    const bool base_there = component->usable[base] && component->record.slots[base].intact != 0 &&
                            fleet_digest_same(component->record.slots[base].digest, entry->base);
    return base_there ? FLEET_REASON_NONE : FLEET_REASON_BASE_MISSING;
}

/* The same image under another manifest: nothing to transfer. */
static bool image_is_here(fleet_agent_t *agent) {
    const fleet_download_t *download = &agent->download;
    const fleet_slot_record_t *slot = slot_of(agent);
    return slot->intact != 0 && slot->state == FLEET_SLOT_STATE_REJECTED &&
           fleet_digest_same(slot->digest, download->release.digest);
}

static void take_manifest(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    fleet_download_t *download = download_of(agent);
    fleet_reason_t reason =
        message->payload == NULL ? FLEET_REASON_MANIFEST_DIGEST
                                 : fleet_manifest_read(agent, download->component, message->payload, message->payload_bytes,
                                                       &download->release);
    if (reason == FLEET_REASON_MANIFEST_DIGEST) {
        if (agent->last_reason != FLEET_REASON_MANIFEST_DIGEST) { /* not what was signed: wait for the right one, asked again after the timeout */
            fleet_note_reason(agent, reason);
        }
        return;
    }
    const bool here = reason == FLEET_REASON_NONE && image_is_here(agent);
    if (reason == FLEET_REASON_NONE && !here) {
        reason = check_transfer(agent);
    }
    if (reason != FLEET_REASON_NONE) {
        refuse(agent, reason);
        return;
    }
    unsubscribe_all(agent);
    set_waiting(agent, false);
    if (here) {
        if (change_slot(agent, FLEET_BEGIN)) { /* key, counter and floor are this manifest's */
            fleet_download_restage(agent, download->component, download->slot);
        }
        return;
    }
    fleet_progress_record_t progress;
    const uint32_t spread_s = resumable(agent, &progress) ? 0 : entry_of(agent)->start_spread_s;
    if (download->component->due_s == 0) {
        download->component->due_s = agent->uptime_s + 1U + fleet_random_below(agent, spread_s);
    }
    download->phase = FLEET_DOWNLOAD_WAIT;
}

static bool clock_allows(const fleet_agent_t *agent, const fleet_entry_t *entry) {
    enum { DAY_MINUTES = 1440 };
    const fleet_clock_t *clock = agent->config.clock;
    const uint64_t now_s = clock->wall_clock_s != NULL ? clock->wall_clock_s(clock->ctx) : 0;
    if (now_s == 0) {
        return true;
    }
    const int32_t offset_min = clock->utc_offset_min != NULL ? clock->utc_offset_min(clock->ctx) : 0;
    const uint32_t minute = (uint32_t)now_s / 60U + (uint32_t)(offset_min + DAY_MINUTES); /* until 2106 */
    const uint32_t since = (minute + DAY_MINUTES - entry->window_start_min) % DAY_MINUTES;
    return now_s >= entry->not_before && (entry->window_minutes == 0 || since < entry->window_minutes);
}

static bool wait_is_over(const fleet_agent_t *agent, const fleet_component_t *component) {
    return agent->uptime_s + 1U >= component->due_s && clock_allows(agent, &component->entry);
}

static uint32_t step_wait(fleet_agent_t *agent) {
    fleet_component_t *component = agent->download.component;
    if (!wait_is_over(agent, component)) {
        return FLEET_IDLE_MS;
    }
    component->due_s = 0;
    begin_fetch(agent);
    return 0;
}

#if FLEET_COMPONENTS > 1

bool fleet_download_gives_way(const fleet_agent_t *agent, const fleet_component_t *component) {
    const fleet_download_t *download = &agent->download;
    return download->phase == FLEET_DOWNLOAD_WAIT && !wait_is_over(agent, download->component) && wait_is_over(agent, component);
}

#endif

/* ---- FETCH: chunks ---- */

static void lose(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    download->asked_end = download->chunk;
    download->window = (uint8_t)(download->window > 1U ? download->window / 2U : 1U);
    download->in_a_row = 0;
}

/* The next chunk, opened where it lies. NONE, or why it ends the download. */
static fleet_reason_t open_chunk(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    fleet_download_t *download = download_of(agent);
    const fleet_entry_t *entry = entry_of(agent);
    const uint32_t bytes = message->payload_bytes;
    if (message->payload != NULL && bytes == 0) {
        return FLEET_REASON_BLOB_GONE;
    }
    if (message->payload == NULL || bytes != chunk_size(entry, download->chunk)) {
        return FLEET_REASON_DOWNLOAD_FAILED;
    }
    if (fleet_entry_is_encrypted(entry) && !fleet_chunk_open(agent->config.crypto, download->content_key, download->chunk, message->payload, bytes)) {
        return FLEET_REASON_CHUNK_FORGED;
    }
    download->piece = message->payload;
    download->piece_bytes = bytes - (fleet_entry_is_encrypted(entry) ? FLEET_TAG_BYTES : 0U);
    return FLEET_REASON_NONE;
}

static void take_chunk(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    fleet_download_t *download = download_of(agent);
    const fleet_reason_t reason = open_chunk(agent, message);
    if (reason != FLEET_REASON_NONE) {
        fail(agent, reason);
        return;
    }
    download->received += message->payload_bytes;
    download->piece_used = download->chunk_skip;
    download->chunk_skip = 0;
    download->progress_ms = agent->now_ms;
    set_waiting(agent, false);
}

static bool came_on(const fleet_agent_t *agent, const fleet_mqtt_event_t *message, uint32_t chunk) {
    char topic[FLEET_TOPIC_BYTES];
    write_topic(agent, chunk, topic);
    return fleet_text_is(message->topic, message->topic_bytes, topic);
}

void fleet_download_message(fleet_agent_t *agent, const fleet_mqtt_event_t *message) {
    const fleet_download_t *download = download_of(agent);
    const bool expected = download->phase == FLEET_DOWNLOAD_MANIFEST || download->phase == FLEET_DOWNLOAD_FETCH;
    if (!expected || download->chunk >= fleet_chunk_count(entry_of(agent))) {
        return; /* behind the last chunk too: nothing would ever use that up, and no more input is read until it is */
    }
    if (came_on(agent, message, download->chunk)) {
        if (download->phase == FLEET_DOWNLOAD_MANIFEST) {
            take_manifest(agent, message);
        } else {
            take_chunk(agent, message);
        }
        return;
    }
    for (uint32_t later = download->chunk + 1U; later < download->asked_end; later++) {
        if (came_on(agent, message, later)) {
            lose(agent); /* one before it got lost; asking from there again brings this one again too */
        }
    }
}

static void finish_chunk(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    unsubscribe(agent, download->chunk);
    download->piece = NULL;
    download->chunk++;
    download->in_a_row++;
    if (download->in_a_row >= GROW_AFTER_CHUNKS && download->window < FLEET_WINDOW) {
        download->window++;
        download->in_a_row = 0;
    }
    if (download->asked_end < download->chunk) {
        download->asked_end = download->chunk;
    }
}

/* Asks for what comes next, again after a timeout, and then `state` says so: the service may restore the broker. */
static void ask(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    const uint32_t end = download->phase == FLEET_DOWNLOAD_MANIFEST ? 1U : fleet_chunk_count(entry_of(agent));
    if (!fleet_mqtt_connected(&agent->mqtt)) {
        return;
    }
    if (download->piece == NULL && download->chunk < end && agent->now_ms - download->progress_ms >= FLEET_CHUNK_TIMEOUT_MS) {
        lose(agent);
        download->window = 1;
        download->progress_ms = agent->now_ms;
        set_waiting(agent, true);
    }
    while (download->asked_end < end && download->asked_end < download->chunk + download->window) {
        char topic[FLEET_TOPIC_BYTES];
        write_topic(agent, download->asked_end, topic);
        if (fleet_mqtt_subscribe(&agent->mqtt, topic, 0) != FLEET_OK) {
            break;
        }
        download->asked_end++;
    }
}

static bool note_progress(fleet_agent_t *agent) {
    fleet_progress_record_t progress;
    return !fleet_image_writer_checkpoint(agent, &progress) ||
           record_progress(agent, progress.input_bytes, progress.output_bytes, progress.spacing);
}

static void begin_hash(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    unsubscribe_all(agent);
    fleet_image_writer_settle(agent);
    download->hashed = 0;
    download->phase = FLEET_DOWNLOAD_HASH;
}

static uint32_t step_fetch(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    const bool all_in = download->chunk >= fleet_chunk_count(entry_of(agent));
    fleet_reason_t reason = fleet_image_writer_step(agent, all_in);
    if (reason == FLEET_REASON_NONE && !note_progress(agent)) {
        reason = FLEET_REASON_FLASH_FAILED;
    }
    if (reason != FLEET_REASON_NONE) {
        fail(agent, reason);
        return 0;
    }
    if (download->piece != NULL && download->piece_used == download->piece_bytes) {
        finish_chunk(agent);
    }
    if (fleet_image_writer_done(agent)) {
        begin_hash(agent);
        return 0;
    }
    ask(agent);
    return download->piece != NULL || fleet_image_writer_busy(agent) ? 1 : FLEET_IDLE_MS; /* an erase takes milliseconds */
}

/* ---- HASH ---- */

static bool hash_slice(fleet_agent_t *agent) {
    enum { PIECE_BYTES = 128 };
    fleet_download_t *download = download_of(agent);
    const fleet_flash_t *flash = fleet_component_flash(agent, download->component);
    const uint32_t start = fleet_slot_offset(agent, download->component, download->slot);
    uint8_t piece[PIECE_BYTES];
    for (uint32_t done = 0; done < FLEET_HASH_SLICE_BYTES && download->hashed < download->release.image_bytes; done += PIECE_BYTES) {
        const uint32_t rest = download->release.image_bytes - download->hashed;
        const uint32_t count = rest < PIECE_BYTES ? rest : PIECE_BYTES;
        if (fleet_flash_read(flash, start + download->hashed, piece, count) != FLEET_OK) {
            return false;
        }
        agent->config.crypto->sha256_update(agent->config.crypto->ctx, &download->work.sha, piece, count);
        download->hashed += count;
    }
    return true;
}

static uint32_t step_hash(fleet_agent_t *agent) {
    fleet_download_t *download = download_of(agent);
    const fleet_crypto_t *crypto = agent->config.crypto;
    uint8_t digest[FLEET_DIGEST_BYTES];
    if (download->hashed == 0) {
        crypto->sha256_init(crypto->ctx, &download->work.sha);
    }
    if (!hash_slice(agent)) {
        fail(agent, FLEET_REASON_FLASH_FAILED);
        return 0;
    }
    if (download->hashed < download->release.image_bytes) {
        return 0;
    }
    crypto->sha256_final(crypto->ctx, &download->work.sha, digest);
    if (!fleet_digest_same(digest, download->release.digest)) {
        fail(agent, FLEET_REASON_DIGEST_MISMATCH);
        return 0;
    }
    download->phase = FLEET_DOWNLOAD_IDLE;
    set_waiting(agent, false);
    (void)fleet_slots_stage(agent, download->component, download->slot);
    return 0;
}

uint32_t fleet_download_step(fleet_agent_t *agent) {
    switch (agent->download.phase) {
        case FLEET_DOWNLOAD_MANIFEST: ask(agent); return FLEET_IDLE_MS;
        case FLEET_DOWNLOAD_WAIT: return step_wait(agent);
        case FLEET_DOWNLOAD_FETCH: return step_fetch(agent);
        case FLEET_DOWNLOAD_HASH: return step_hash(agent);
        default: return FLEET_IDLE_MS;
    }
}

uint32_t fleet_download_written(const fleet_agent_t *agent, const fleet_component_t *component, uint8_t slot) {
    const fleet_slot_record_t *record = &component->record.slots[slot];
    const fleet_download_t *download = &agent->download;
    if (record->state == FLEET_SLOT_STATE_WRITING) {
        const bool here = fleet_download_runs(agent, component) && download->slot == slot && download->phase >= FLEET_DOWNLOAD_FETCH;
        return here ? download->written : 0;
    }
    return record->intact != 0 ? record->image_bytes : 0;
}
