/* Stands between a process and its disk, loaded before the C library (see disk.py).

   What the process does to the files of DISK_FOLDER is written to DISK_JOURNAL: writes, cuts and
   removals before they are done, syncs once they have returned. While there is a file DISK_FAILS,
   what it names fails: "w30" lets writes, cuts and removals fail with error 30, "s5" syncs with 5. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

struct __attribute__((packed)) head {
    char what;
    uint16_t path_bytes;
    uint32_t data_bytes;
    uint64_t at;
};

static int journal = -1;

static void __attribute__((constructor)) begin(void) {
    journal = open(getenv("DISK_JOURNAL"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

static int fails(char what) {
    char told[16] = "";
    int file = open(getenv("DISK_FAILS"), O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t size = read(file, told, sizeof told - 1);
    close(file);
    if (size < 2 || told[0] != what)
        return 0;
    errno = atoi(told + 1);
    return 1;
}

/* Whether a path is of the folder, or the folder that holds it. */
static int ours(const char *path) {
    const char *folder = getenv("DISK_FOLDER");
    size_t length = strlen(folder);
    const char *name = strrchr(folder, '/');
    return (!strncmp(path, folder, length) && (!path[length] || path[length] == '/')) ||
           (strlen(path) == (size_t)(name - folder) && !strncmp(path, folder, name - folder));
}

static void note(char what, const char *path, uint64_t at, const void *data, size_t size) {
    struct head head = {what, strlen(path), size, at};
    /* One call: records of threads do not mix, and only the last may be cut. */
    struct iovec parts[] = {
        {&head, sizeof head}, {(void *)path, head.path_bytes}, {(void *)data, size}};
    if (writev(journal, parts, 3) < 0)
        abort();
}

static int path_of(int file, char *path) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    return ours(path);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    char path[PATH_MAX];
    if (path_of(file, path)) {
        if (fails('w'))
            return -1;
        note('w', path, at, data, size);
    }
    return syscall(SYS_pwrite64, file, data, size, at);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at) {
    return pwrite64(file, data, size, at);
}

int ftruncate64(int file, off64_t size) {
    char path[PATH_MAX];
    if (path_of(file, path)) {
        if (fails('w'))
            return -1;
        note('t', path, size, "", 0);
    }
    return syscall(SYS_ftruncate, file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int unlink(const char *path) {
    if (ours(path)) {
        if (fails('w'))
            return -1;
        note('u', path, 0, "", 0);
    }
    return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

static int synced(int file, long call) {
    char path[PATH_MAX];
    int is_ours = path_of(file, path);
    if (is_ours && fails('s'))
        return -1;
    int failed = syscall(call, file);
    if (is_ours && !failed)
        note('s', path, 0, "", 0);
    return failed;
}

int fsync(int file) { return synced(file, SYS_fsync); }

int fdatasync(int file) { return synced(file, SYS_fdatasync); }
