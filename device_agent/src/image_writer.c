#include "image_writer.h"

#include <string.h>

#include "compact.h"
#include "content_key.h"
#include "flash_area.h"
#include "slots.h"

/* Output decoded per step at most: bounds the time of one step. */
#define SLICE_BYTES 4096U

static const fleet_entry_t *entry_of(const fleet_agent_t *agent) {
    return &agent->download.component->entry;
}

static const fleet_flash_t *flash_of(const fleet_agent_t *agent) {
    return fleet_component_flash(agent, agent->download.component);
}

FLEET_APART static uint32_t slot_start(const fleet_agent_t *agent) {
    return fleet_slot_offset(agent, agent->download.component, agent->download.slot);
}

void fleet_image_writer_seek(fleet_agent_t *agent, uint32_t output) {
    fleet_download_t *download = &agent->download;
    download->written = output;
    download->erased_end = output;
}

void fleet_image_writer_settle(fleet_agent_t *agent) {
    if (agent->download.erasing) {
        (void)fleet_flash_settle(flash_of(agent));
        agent->download.erasing = false;
    }
}

/* ---- delta callbacks ---- */

static int read_old(void *ctx, uint32_t offset, uint8_t *data, uint32_t size) {
    const fleet_agent_t *agent = ctx;
    const fleet_download_t *download = &agent->download;
    const bool firmware = fleet_is_firmware(agent, download->component);
    const fleet_flash_t *flash = firmware ? agent->config.firmware->primary : agent->config.flash;
    const uint32_t base = fleet_slot_offset(agent, download->component, download->slot ^ 1U);
    return fleet_flash_read(flash, base + offset, data, size) == FLEET_OK ? 0 : 1;
}

static int read_new(void *ctx, uint32_t offset, uint8_t *data, uint32_t size) {
    const fleet_agent_t *agent = ctx;
    return fleet_flash_read(flash_of(agent), slot_start(agent) + offset, data, size) == FLEET_OK ? 0 : 1;
}

/* A unit, which lies in ours; a short last one is padded with 0xFF. */
static int write_new(void *ctx, uint32_t offset, const uint8_t *data, uint32_t size) {
    fleet_agent_t *agent = ctx;
    fleet_download_t *download = &agent->download;
    const fleet_flash_t *flash = flash_of(agent);
    memset(download->unit + size, 0xFF, flash->program_bytes - size);
    download->written = offset + size;
    return fleet_flash_prog_unit(flash, slot_start(agent) + offset, data) == FLEET_OK ? 0 : 1;
}

static void configure_delta(fleet_agent_t *agent) {
    fleet_download_t *download = &agent->download;
    const fleet_component_t *component = download->component;
    fleet_delta_config_t *config = &download->work.delta.config;
    memset(config, 0, sizeof *config);
    if (entry_of(agent)->has_base) {
        config->old_bytes = component->record.slots[download->slot ^ 1U].image_bytes;
        memcpy(config->base_id, entry_of(agent)->base, FLEET_DELTA_BASE_ID_BYTES);
    }
    config->new_bytes = download->release.image_bytes;
    config->patch_bytes = fleet_plain_blob_bytes(entry_of(agent));
    config->read_old = read_old;
    config->read_new = read_new;
    config->write_new = write_new;
    config->ctx = agent;
    config->unit = download->unit;
    config->unit_bytes = flash_of(agent)->program_bytes;
    config->checkpoint_align_bytes = flash_of(agent)->erase_bytes;
    config->stored = entry_of(agent)->codec == FLEET_CODEC_RAW;
}

fleet_status_t fleet_image_writer_begin(fleet_agent_t *agent, const fleet_progress_record_t *progress) {
    fleet_download_t *download = &agent->download;
    fleet_delta_checkpoint_t checkpoint = {0, 0, 0};
    configure_delta(agent);
    if (progress != NULL) {
        checkpoint.input_offset = progress->input_bytes;
        checkpoint.output_offset = progress->output_bytes;
        checkpoint.spacing = progress->spacing;
    }
    return fleet_delta_resume(&download->work.delta.state, &download->work.delta.config, &checkpoint);
}

/* ---- erase ahead ---- */

/* Two blocks beyond what is written, so that the stream rarely waits. */
static fleet_status_t erase_ahead(fleet_agent_t *agent) {
    const fleet_flash_t *flash = flash_of(agent);
    fleet_download_t *download = &agent->download;
    const uint32_t end = fleet_round_up(download->release.image_bytes, flash->erase_bytes);
    if (download->erasing) {
        const int busy = flash->erase_busy(flash->ctx);
        if (busy != 0) {
            return busy > 0 ? FLEET_OK : FLEET_ERR_FLASH;
        }
        download->erasing = false;
        download->erased_end += flash->erase_bytes;
    }
    const uint32_t ahead = download->written + 2U * flash->erase_bytes;
    if (download->erased_end < end && download->erased_end < ahead) {
        if (flash->erase_start(flash->ctx, slot_start(agent) + download->erased_end) != FLEET_OK) {
            return FLEET_ERR_FLASH;
        }
        download->erasing = true;
    }
    return FLEET_OK;
}

/* ---- decode ---- */

/* Output that surely lies in erased flash: the decoder may hold almost a unit back. */
static uint32_t budget_of(const fleet_agent_t *agent) {
    const fleet_download_t *download = &agent->download;
    if (download->erased_end >= download->release.image_bytes) {
        return SLICE_BYTES;
    }
    const uint32_t room = download->erased_end - download->written;
    const uint32_t kept = flash_of(agent)->program_bytes;
    const uint32_t budget = room > kept ? room - kept : 0U;
    return budget < SLICE_BYTES ? budget : SLICE_BYTES;
}

static fleet_status_t feed(fleet_agent_t *agent, bool all_in) {
    fleet_download_t *download = &agent->download;
    fleet_delta_t *delta = &download->work.delta.state;
    const uint32_t budget = budget_of(agent);
    size_t used = 0;
    if (budget < FLEET_DELTA_WORD) {
        return FLEET_OK;
    }
    const uint8_t *data = download->piece != NULL ? download->piece + download->piece_used : NULL;
    const size_t size = download->piece != NULL ? download->piece_bytes - download->piece_used : 0U;
    const fleet_status_t status = fleet_delta_push(delta, data, size, budget, &used);
    download->piece_used += (uint32_t)used;
    return status == FLEET_OK && all_in && fleet_delta_wants_input(delta) ? FLEET_ERR_PATCH : status;
}

static fleet_reason_t reason_of(fleet_status_t status) {
    switch (status) {
        case FLEET_OK: return FLEET_REASON_NONE;
        case FLEET_ERR_PATCH: return FLEET_REASON_PATCH_INVALID;
        case FLEET_ERR_PATCH_BASE: return FLEET_REASON_BASE_MISSING;
        default: return FLEET_REASON_FLASH_FAILED;
    }
}

fleet_reason_t fleet_image_writer_step(fleet_agent_t *agent, bool all_in) {
    const fleet_status_t status = erase_ahead(agent);
    const bool free = status == FLEET_OK && !agent->download.erasing; /* one operation at a time; the network goes on meanwhile */
    return reason_of(free ? feed(agent, all_in) : status);
}

bool fleet_image_writer_busy(const fleet_agent_t *agent) {
    return agent->download.erasing || !fleet_delta_wants_input(&agent->download.work.delta.state);
}

bool fleet_image_writer_done(const fleet_agent_t *agent) {
    return fleet_delta_done(&agent->download.work.delta.state);
}

bool fleet_image_writer_checkpoint(const fleet_agent_t *agent, fleet_progress_record_t *progress) {
    const fleet_delta_checkpoint_t *checkpoint = fleet_delta_checkpoint(&agent->download.work.delta.state);
    progress->input_bytes = checkpoint->input_offset;
    progress->output_bytes = checkpoint->output_offset;
    progress->spacing = checkpoint->spacing;
    return checkpoint->output_offset >= agent->download.recorded + FLEET_PROGRESS_BYTES;
}
