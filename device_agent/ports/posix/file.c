#define _POSIX_C_SOURCE 200809L

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "fleet_posix.h"

static bool write_all(int file, const uint8_t *data, size_t bytes)
{
    while (bytes > 0U) {
        ssize_t done = write(file, data, bytes);
        if (done <= 0) {
            return false;
        }
        data += done;
        bytes -= (size_t)done;
    }
    return true;
}

fleet_status_t fleet_posix_write_file(const char *path, const void *data, size_t bytes, unsigned mode)
{
    char aside[FLEET_POSIX_PATH_BYTES + 8U];
    int length = snprintf(aside, sizeof aside, "%s.new", path);
    if (length < 0 || (size_t)length >= sizeof aside) {
        return FLEET_ERR_ARGUMENT;
    }
    int file = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, (mode_t)mode);
    if (file < 0) {
        return FLEET_ERR_STORAGE;
    }
    bool written = write_all(file, data, bytes) && fsync(file) == 0;
    written = close(file) == 0 && written;
    if (!written || rename(aside, path) != 0) {
        (void)unlink(aside);
        return FLEET_ERR_STORAGE;
    }
    return FLEET_OK;
}
