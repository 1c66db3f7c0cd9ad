/*
 * Writes an image into a slot as its blob arrives, through the delta decoder, which passes raw images as they are, in program units; erases run ahead.
 * Progress is recorded at the border of an erase block only, and a resume erases from there on: the unit that a power cut may
 * have left half written, and that may read well today and badly tomorrow, is never relied on.
 */
#ifndef FLEET_IMAGE_WRITER_H
#define FLEET_IMAGE_WRITER_H

#include "fleet_agent.h"

/** The next image byte to be written is `output`. */
void fleet_image_writer_seek(fleet_agent_t *agent, uint32_t output);

/** Prepares the decoder for the codec of the entry, at a checkpoint when one is given. */
fleet_status_t fleet_image_writer_begin(fleet_agent_t *agent, const fleet_progress_record_t *progress);

/** Erases ahead and uses what it can of download->piece. @param[in] all_in every chunk was used @return NONE, or why it cannot go on */
fleet_reason_t fleet_image_writer_step(fleet_agent_t *agent, bool all_in);

/** Erasing or decoding: call again soon. */
bool fleet_image_writer_busy(const fleet_agent_t *agent);

/** Every image byte is in flash. */
bool fleet_image_writer_done(const fleet_agent_t *agent);

/** True with blob and image offsets to go on from after a power cut, when they are worth a record. */
bool fleet_image_writer_checkpoint(const fleet_agent_t *agent, fleet_progress_record_t *progress);

/** Waits for a running erase, so that flash is free. */
void fleet_image_writer_settle(fleet_agent_t *agent);

#endif
