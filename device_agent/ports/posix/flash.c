/*
 * NOR flash in a file. Operations are single pwrite calls on a file that was filled when it was made, so a killed process leaves
 * whole operations behind; reads and execution in place go through a shared mapping of the same pages.
 * A file being made has another name until it is filled: there are no half-made flashes.
 */
#define _DEFAULT_SOURCE /* flock */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fleet_posix.h"

#define NO_BLOCK UINT32_MAX
#define ERASED 0xFF

static fleet_status_t fail(fleet_posix_flash_t *flash, const char *what, const char *path)
{
    (void)snprintf(flash->error, sizeof flash->error, "%s %s: %s", what, path, strerror(errno));
    return FLEET_ERR_STORAGE;
}

static fleet_status_t violation(fleet_posix_flash_t *flash, const char *rule, uint32_t offset)
{
    flash->violations++;
    (void)snprintf(flash->error, sizeof flash->error, "flash rule broken at offset %lu: %s", (unsigned long)offset, rule);
    return FLEET_ERR_STORAGE;
}

static bool write_at(const fleet_posix_flash_t *flash, uint32_t offset, const uint8_t *data, uint32_t bytes)
{
    while (bytes > 0U) {
        ssize_t done = pwrite(flash->file, data, bytes, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done <= 0) {
            return false;
        }
        data += done;
        offset += (uint32_t)done;
        bytes -= (uint32_t)done;
    }
    return !flash->sync || fdatasync(flash->file) == 0;
}

static bool fill_erased(const fleet_posix_flash_t *flash, uint32_t offset, uint32_t bytes)
{
    uint8_t erased[4096];
    memset(erased, ERASED, sizeof erased);
    while (bytes > 0U) {
        uint32_t part = bytes < sizeof erased ? bytes : (uint32_t)sizeof erased;
        if (!write_at(flash, offset, erased, part)) {
            return false;
        }
        offset += part;
        bytes -= part;
    }
    return true;
}

static bool geometry_is_possible(const fleet_posix_flash_t *flash)
{
    uint32_t unit = flash->program_bytes;
    bool unit_ok = unit > 0U && unit <= FLEET_FLASH_UNIT_MAX && (unit & (unit - 1U)) == 0U;
    return unit_ok && flash->erase_bytes > 0U && flash->erase_bytes % unit == 0U && flash->size > 0U &&
           flash->size % flash->erase_bytes == 0U;
}

static fleet_status_t make_file(fleet_posix_flash_t *flash, const char *path)
{
    char aside[FLEET_POSIX_PATH_BYTES + 8U];
    int length = snprintf(aside, sizeof aside, "%s.new", path);
    if (length < 0 || (size_t)length >= sizeof aside) {
        errno = ENAMETOOLONG;
        return fail(flash, "make", path);
    }
    flash->file = open(aside, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool made = flash->file >= 0 && fill_erased(flash, 0, flash->size) && fsync(flash->file) == 0;
    if (made && rename(aside, path) == 0) {
        return FLEET_OK;
    }
    fleet_status_t status = fail(flash, "make flash file", path);
    if (flash->file >= 0) {
        (void)close(flash->file);
        flash->file = -1;
        (void)unlink(aside);
    }
    return status;
}

static fleet_status_t map_file(fleet_posix_flash_t *flash, const char *path)
{
    struct stat info;
    if (flock(flash->file, LOCK_EX | LOCK_NB) != 0) {
        return fail(flash, "another process uses flash file", path);
    }
    if (fstat(flash->file, &info) != 0) {
        return fail(flash, "read flash file", path);
    }
    if (info.st_size != (off_t)flash->size) {
        (void)snprintf(flash->error, sizeof flash->error, "flash file %s has %lld bytes, expected %lu: was made for another slot size",
                       path, (long long)info.st_size, (unsigned long)flash->size);
        return FLEET_ERR_STORAGE;
    }
    void *map = mmap(NULL, flash->size, PROT_READ, MAP_SHARED, flash->file, 0);
    if (map == MAP_FAILED) {
        return fail(flash, "map flash file", path);
    }
    flash->map = map;
    return FLEET_OK;
}

fleet_status_t fleet_posix_flash_open(fleet_posix_flash_t *flash, const char *path)
{
    flash->map = NULL;
    flash->file = -1;
    flash->erasing = NO_BLOCK;
    flash->error[0] = '\0';
    if (!geometry_is_possible(flash)) {
        return FLEET_ERR_ARGUMENT;
    }
    flash->file = open(path, O_RDWR | O_CLOEXEC);
    fleet_status_t status = FLEET_OK;
    if (flash->file < 0) {
        status = errno == ENOENT ? make_file(flash, path) : fail(flash, "open flash file", path);
    }
    if (status == FLEET_OK) {
        status = map_file(flash, path);
    }
    if (status != FLEET_OK) {
        fleet_posix_flash_close(flash);
    }
    return status;
}

void fleet_posix_flash_close(fleet_posix_flash_t *flash)
{
    if (flash->map != NULL) {
        (void)munmap(flash->map, flash->size);
        flash->map = NULL;
    }
    if (flash->file >= 0) {
        (void)close(flash->file);
        flash->file = -1;
    }
}

static bool is_inside(const fleet_posix_flash_t *flash, uint32_t offset, uint32_t bytes)
{
    return offset <= flash->size && bytes <= flash->size - offset;
}

static int erase_busy(void *ctx)
{
    fleet_posix_flash_t *flash = ctx;
    if (flash->erasing != NO_BLOCK && fleet_posix_now_ms() >= flash->erase_until_ms) {
        flash->erasing = NO_BLOCK;
    }
    return flash->erasing != NO_BLOCK ? 1 : 0;
}

static bool touches_erase(fleet_posix_flash_t *flash, uint32_t offset, uint32_t bytes)
{
    return erase_busy(flash) == 1 && offset < flash->erasing + flash->erase_bytes && flash->erasing < offset + bytes;
}

static fleet_status_t read_flash(void *ctx, uint32_t offset, void *data, uint32_t bytes)
{
    fleet_posix_flash_t *flash = ctx;
    if (!is_inside(flash, offset, bytes)) {
        return violation(flash, "read outside the area", offset);
    }
    if (touches_erase(flash, offset, bytes)) {
        return violation(flash, "read of a block while it is erased", offset);
    }
    memcpy(data, flash->map + offset, bytes);
    return FLEET_OK;
}

/* A byte is programmed once between two erases; writing the same value again is what follows a power cut. */
static bool may_program(const uint8_t *old, const uint8_t *new_bytes, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++) {
        if (old[i] != ERASED && old[i] != new_bytes[i]) {
            return false;
        }
    }
    return true;
}

static fleet_status_t prog_flash(void *ctx, uint32_t offset, const void *data, uint32_t bytes)
{
    fleet_posix_flash_t *flash = ctx;
    if (!is_inside(flash, offset, bytes)) {
        return violation(flash, "program outside the area", offset);
    }
    if (offset % flash->program_bytes != 0U || bytes % flash->program_bytes != 0U) {
        return violation(flash, "program of less than whole units", offset);
    }
    if (erase_busy(flash) == 1) {
        return violation(flash, "program while an erase runs", offset);
    }
    if (!may_program(flash->map + offset, data, bytes)) {
        return violation(flash, "program without erase", offset);
    }
    if (!write_at(flash, offset, data, bytes)) {
        return fail(flash, "program", "flash file");
    }
    return FLEET_OK;
}

static fleet_status_t erase_flash(void *ctx, uint32_t offset)
{
    fleet_posix_flash_t *flash = ctx;
    if (!is_inside(flash, offset, flash->erase_bytes) || offset % flash->erase_bytes != 0U) {
        return violation(flash, "erase of something that is not a block", offset);
    }
    if (erase_busy(flash) == 1) {
        return violation(flash, "second erase while one runs", offset);
    }
    if (!fill_erased(flash, offset, flash->erase_bytes)) {
        return fail(flash, "erase", "flash file");
    }
    if (flash->erase_ms > 0U) {
        flash->erasing = offset;
        flash->erase_until_ms = fleet_posix_now_ms() + flash->erase_ms;
    }
    return FLEET_OK;
}

fleet_flash_t fleet_posix_flash_port(fleet_posix_flash_t *flash)
{
    fleet_flash_t port = {
        .read = read_flash,
        .prog = prog_flash,
        .erase_start = erase_flash,
        .erase_busy = erase_busy,
        .mapped = flash->map,
        .size = flash->size,
        .erase_bytes = flash->erase_bytes,
        .program_bytes = flash->program_bytes,
        .ctx = flash,
    };
    return port;
}
