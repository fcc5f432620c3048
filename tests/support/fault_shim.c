/* Fail, kill at, or log system calls on the files below one directory. Loaded with LD_PRELOAD.

   FAULT_SHIM_STATE is a file with a `struct state`, which every process that has the library maps: a test writes what
   to do into it, and reads what happened from it (`tests/support/fault_shim.py`). FAULT_SHIM_LOG is the file for the
   mode LOG.

   A call counts if its kind is counted and it is on a path or a descriptor below the root, in a process of the process
   group `group`. Calls that the C library makes itself (opendir opens a directory) are only seen where the function
   that makes them is one of those below. The log holds every change with its data, in the order in which the changes
   took effect: a lock is held around each call and its record. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

/* The same order as `Kind` in fault_shim.py. */
enum kind {
    OPEN, CREATE, READ, WRITE, TRUNCATE, ALLOCATE, SYNC, RENAME, LINK, SYMLINK, UNLINK, RMDIR, MKDIR, CHMOD, UTIME,
    LOCK, STATVFS, LIST, KINDS
};

/* The same order as `Mode` in fault_shim.py. */
enum mode { OFF, COUNT, FAIL, FAIL_FROM, SHORT, KILL_BEFORE, KILL_DURING, KILL_AFTER, LOG };

#define MAX_CALLS 65536

struct state {
    int32_t mode;
    int32_t group;             /* the process group whose calls count; 0: all processes that have the library */
    int32_t target;            /* the number of the call, counted from 1 */
    uint32_t counted;          /* a bit for each kind */
    int32_t calls;             /* how many calls were counted */
    int32_t injected;          /* how many of them failed, were cut short, or were killed at */
    int32_t lock;
    int32_t errors[KINDS];     /* the errno with which a call of each kind fails; 0: it does not */
    uint8_t kinds[MAX_CALLS];  /* the kind of each call */
    char root[PATH_MAX];       /* the directory: absolute, without symbolic links */
};

static struct state *state;

#define REAL(name) ((__typeof__(&name)) real(#name, &real_##name))
#define DECLARE(name) static void *real_##name

static void *real(const char *name, void **found) {
    if (!*found)
        *found = dlsym(RTLD_NEXT, name);
    return *found;
}

DECLARE(open); DECLARE(openat); DECLARE(read); DECLARE(readv); DECLARE(pread); DECLARE(preadv); DECLARE(preadv2);
DECLARE(write); DECLARE(writev); DECLARE(pwrite); DECLARE(pwritev); DECLARE(pwritev2); DECLARE(copy_file_range);
DECLARE(sendfile); DECLARE(ftruncate); DECLARE(posix_fallocate); DECLARE(fallocate); DECLARE(fsync); DECLARE(fdatasync);
DECLARE(renameat); DECLARE(renameat2); DECLARE(linkat); DECLARE(symlinkat); DECLARE(unlinkat); DECLARE(mkdirat);
DECLARE(fchmodat); DECLARE(fchmod); DECLARE(utimensat); DECLARE(futimens); DECLARE(flock); DECLARE(statvfs);
DECLARE(fstatvfs); DECLARE(opendir); DECLARE(fdopendir);

__attribute__((constructor)) static void start(void) {
    const char *path = getenv("FAULT_SHIM_STATE");
    if (!path)
        return;
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return;
    void *mapped = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED)
        state = mapped;
}

/* Which calls are meant */

static int is_below(const char *path) {
    size_t length = strlen(state->root);
    return strncmp(path, state->root, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int path_of_fd(int fd, char *path) {
    char name[64];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(name, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return 1;
}

static int fd_is_below(int fd) {
    char path[PATH_MAX];
    return path_of_fd(fd, path) && is_below(path);
}

/* `follow`: a link elsewhere that leads below the root counts, too. utimensat has no path for a descriptor alone. */
static int path_is_below(int directory, const char *path, int follow) {
    if (!path)
        return fd_is_below(directory);
    char whole[2 * PATH_MAX], base[PATH_MAX];
    if (path[0] != '/') {
        if (directory == AT_FDCWD ? !getcwd(base, sizeof base) : !path_of_fd(directory, base))
            return 0;
        snprintf(whole, sizeof whole, "%s/%s", base, path);
        path = whole;
    }
    if (is_below(path))
        return 1;
    return follow && realpath(path, base) && is_below(base);
}

static int is_on(void) {
    return state && state->mode != OFF && (!state->group || getpgrp() == state->group);
}

/* What happens at a call */

static void die(void) {
    __sync_fetch_and_add(&state->injected, 1);
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

enum outcome { GO, FAILS, IS_SHORT, DIES_DURING, DIES_AFTER };

/* Count a call of this kind. With FAILS, errno is set. */
static enum outcome count(enum kind kind) {
    int mode = state->mode;
    if (mode == LOG || !(state->counted >> kind & 1))
        return GO;
    int number = __sync_add_and_fetch(&state->calls, 1);
    if (number <= MAX_CALLS)
        state->kinds[number - 1] = kind;
    if (mode == COUNT || (mode == FAIL_FROM ? number < state->target : number != state->target))
        return GO;
    if (mode == KILL_BEFORE)
        die();
    if (mode == KILL_DURING || mode == KILL_AFTER)
        return mode == KILL_DURING ? DIES_DURING : DIES_AFTER;
    if (mode != SHORT && !state->errors[kind])
        return GO;
    __sync_fetch_and_add(&state->injected, 1);
    errno = state->errors[kind];
    return mode == SHORT ? IS_SHORT : FAILS;
}

static size_t cut(enum outcome outcome, size_t length) {
    return (outcome == IS_SHORT || outcome == DIES_DURING) && length > 1 ? length / 2 : length;
}

static void finish(enum outcome outcome) {
    if (outcome == DIES_DURING || outcome == DIES_AFTER)
        die();
}

/* The log: a record is its numbers as a struct, then two byte strings. Inodes stand for files and directories. */

enum record { R_CREATE, R_LINK, R_UNLINK, R_RENAME, R_EXCHANGE, R_WRITE, R_TRUNCATE, R_CHMOD, R_SYNC };

struct header {
    int32_t record, mode;
    uint64_t inode, parent, other, offset;
    uint32_t first, second;
};

static void lock_log(void) {
    while (__sync_lock_test_and_set(&state->lock, 1))
        sched_yield();
}

static void unlock_log(void) {
    __sync_lock_release(&state->lock);
}

static void put(struct header header, const void *first, size_t first_length, const void *second, size_t second_length) {
    static int fd = -1;
    int saved = errno;
    if (fd < 0)
        fd = REAL(open)(getenv("FAULT_SHIM_LOG"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    header.first = first_length, header.second = second_length;
    struct iovec parts[] = {{&header, sizeof header}, {(void *) first, first_length}, {(void *) second, second_length}};
    if (REAL(writev)(fd, parts, 3) != (ssize_t) (sizeof header + first_length + second_length))
        abort();
    errno = saved;
}

static uint64_t inode_of_fd(int fd) {
    struct stat status;
    return fstat(fd, &status) ? 0 : status.st_ino;
}

static const char *name_of(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static uint64_t parent_of(int directory, const char *path) {
    char parent[PATH_MAX];
    struct stat status;
    snprintf(parent, sizeof parent, "%s", path);
    char *slash = strrchr(parent, '/');
    if (slash)
        slash[slash == parent] = 0;
    else
        strcpy(parent, ".");
    return fstatat(directory, parent, &status, 0) ? 0 : status.st_ino;
}

static int status_of(int directory, const char *path, struct stat *status) {
    int saved = errno, found = !fstatat(directory, path, status, AT_SYMLINK_NOFOLLOW);
    errno = saved;
    return found;
}

static void put_entry(enum record record, int directory, const char *path, const char *target) {
    struct stat status = {0};
    status_of(directory, path, &status);
    struct header header = {record, status.st_mode, status.st_ino, parent_of(directory, path), 0, 0, 0, 0};
    put(header, name_of(path), strlen(name_of(path)), target, target ? strlen(target) : 0);
}

static void put_fd(enum record record, int fd, uint64_t offset, int mode) {
    put((struct header) {record, mode, inode_of_fd(fd), 0, 0, offset, 0, 0}, NULL, 0, NULL, 0);
}

/* The data that a call wrote at `offset`; -1: before the descriptor's position. It is read back from the file. */
static void put_written(int fd, off_t offset, ssize_t length) {
    int saved = errno;
    char name[64];
    if (offset < 0)
        offset = lseek(fd, 0, SEEK_CUR) - length;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    int again = REAL(open)(name, O_RDONLY | O_CLOEXEC);
    char *data = malloc(length);
    if (again < 0 || !data || REAL(pread)(again, data, length, offset) != length)
        abort();
    put((struct header) {R_WRITE, 0, inode_of_fd(fd), 0, 0, offset, 0, 0}, NULL, 0, data, length);
    free(data);
    close(again);
    errno = saved;
}

/* A call that changes entries or a file: counted, or made and logged under the lock. */
#define CHANGE(type, kind, below, call, log)      \
    do {                                          \
        if (!is_on() || !(below))                 \
            return call;                          \
        if (state->mode == LOG) {                 \
            lock_log();                           \
            type changed = call;                  \
            if (changed >= 0) {                   \
                log;                              \
            }                                     \
            unlock_log();                         \
            return changed;                       \
        }                                         \
        enum outcome outcome = count(kind);       \
        if (outcome == FAILS)                     \
            return -1;                            \
        type result = call;                       \
        finish(outcome);                          \
        return result;                            \
    } while (0)

/* A call that only has to succeed. */
#define PLAIN(type, failed, kind, below, call)         \
    do {                                               \
        if (!is_on() || !(below))                      \
            return call;                               \
        enum outcome outcome = count(kind);            \
        if (outcome == FAILS)                          \
            return failed;                             \
        type result = call;                            \
        finish(outcome);                               \
        return result;                                 \
    } while (0)

static int open_at(int directory, const char *path, int flags, mode_t mode) {
    if (!is_on() || !path_is_below(directory, path, 1))
        return REAL(openat)(directory, path, flags, mode);
    struct stat status;
    int creates = (flags & O_CREAT) && !status_of(directory, path, &status);
    if (state->mode == LOG) {
        lock_log();
        creates = (flags & O_CREAT) && !status_of(directory, path, &status);
        int opened = REAL(openat)(directory, path, flags, mode);
        if (opened >= 0 && creates)
            put_entry(R_CREATE, directory, path, NULL);
        else if (opened >= 0 && (flags & O_TRUNC))
            put_fd(R_TRUNCATE, opened, 0, 0);
        unlock_log();
        return opened;
    }
    enum outcome outcome = count(creates ? CREATE : (flags & O_DIRECTORY) ? LIST : OPEN);
    if (outcome == FAILS)
        return -1;
    int result = REAL(openat)(directory, path, flags, mode);
    finish(outcome);
    return result;
}

#define MODE_ARGUMENT                                \
    mode_t mode = 0;                                 \
    if (flags & (O_CREAT | __O_TMPFILE)) {           \
        va_list arguments;                           \
        va_start(arguments, flags);                  \
        mode = va_arg(arguments, int);               \
        va_end(arguments);                           \
    }

int open(const char *path, int flags, ...) { MODE_ARGUMENT return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_ARGUMENT return open_at(AT_FDCWD, path, flags, mode); }
int openat(int directory, const char *path, int flags, ...) { MODE_ARGUMENT return open_at(directory, path, flags, mode); }
int openat64(int directory, const char *path, int flags, ...) { MODE_ARGUMENT return open_at(directory, path, flags, mode); }

DIR *opendir(const char *path) { PLAIN(DIR *, NULL, LIST, path_is_below(AT_FDCWD, path, 1), REAL(opendir)(path)); }
DIR *fdopendir(int fd) { PLAIN(DIR *, NULL, LIST, fd_is_below(fd), REAL(fdopendir)(fd)); }

/* Reads and writes. Of a vector, a short call transfers the first part, or half of an only one. */

#define READS(below, length, call)                      \
    do {                                                \
        size_t wanted = length;                         \
        enum outcome outcome = GO;                      \
        if (is_on() && (below))                         \
            outcome = count(READ);                      \
        if (outcome == FAILS)                           \
            return -1;                                  \
        wanted = cut(outcome, wanted);                  \
        ssize_t result = call;                          \
        finish(outcome);                                \
        return result;                                  \
    } while (0)

#define WRITES(fd, offset, length, call)                \
    do {                                                \
        size_t wanted = length;                         \
        if (!is_on() || !fd_is_below(fd))               \
            return call;                                \
        if (state->mode == LOG) {                       \
            lock_log();                                 \
            ssize_t written = call;                     \
            if (written > 0)                            \
                put_written(fd, offset, written);       \
            unlock_log();                               \
            return written;                             \
        }                                               \
        enum outcome outcome = count(WRITE);            \
        if (outcome == FAILS)                           \
            return -1;                                  \
        wanted = cut(outcome, wanted);                  \
        ssize_t result = call;                          \
        finish(outcome);                                \
        return result;                                  \
    } while (0)

static struct iovec first_half(const struct iovec *parts, int count_of_parts, size_t wanted) {
    return (struct iovec) {parts[0].iov_base, count_of_parts > 1 ? parts[0].iov_len : wanted};
}

static size_t total(const struct iovec *parts, int count_of_parts) {
    size_t length = 0;
    for (int index = 0; index < count_of_parts; index++)
        length += parts[index].iov_len;
    return length;
}

ssize_t read(int fd, void *data, size_t length) {
    READS(fd_is_below(fd), length, REAL(read)(fd, data, wanted));
}

ssize_t pread(int fd, void *data, size_t length, off_t offset) {
    READS(fd_is_below(fd), length, REAL(pread)(fd, data, wanted, offset));
}

ssize_t pread64(int fd, void *data, size_t length, off_t offset) {
    READS(fd_is_below(fd), length, REAL(pread)(fd, data, wanted, offset));
}

ssize_t write(int fd, const void *data, size_t length) {
    WRITES(fd, -1, length, REAL(write)(fd, data, wanted));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    WRITES(fd, offset, length, REAL(pwrite)(fd, data, wanted, offset));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off_t offset) {
    WRITES(fd, offset, length, REAL(pwrite)(fd, data, wanted, offset));
}

#define VECTOR(name, whole)                                                                     \
    size_t all = total(parts, number);                                                          \
    struct iovec only;                                                                          \
    name(all, wanted == all ? whole : (only = first_half(parts, number, wanted), parts = &only, number = 1, whole))

#define READS_VECTOR(all, call) READS(fd_is_below(fd), all, call)

ssize_t readv(int fd, const struct iovec *parts, int number) { VECTOR(READS_VECTOR, REAL(readv)(fd, parts, number)); }

ssize_t preadv(int fd, const struct iovec *parts, int number, off_t offset) {
    VECTOR(READS_VECTOR, REAL(preadv)(fd, parts, number, offset));
}

ssize_t preadv64(int fd, const struct iovec *parts, int number, off_t offset) {
    VECTOR(READS_VECTOR, REAL(preadv)(fd, parts, number, offset));
}

ssize_t preadv2(int fd, const struct iovec *parts, int number, off_t offset, int flags) {
    VECTOR(READS_VECTOR, REAL(preadv2)(fd, parts, number, offset, flags));
}

ssize_t preadv64v2(int fd, const struct iovec *parts, int number, off_t offset, int flags) {
    VECTOR(READS_VECTOR, REAL(preadv2)(fd, parts, number, offset, flags));
}

#define WRITES_VECTOR(all, call) WRITES(fd, offset, all, call)

ssize_t writev(int fd, const struct iovec *parts, int number) {
    off_t offset = -1;
    VECTOR(WRITES_VECTOR, REAL(writev)(fd, parts, number));
}

ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) {
    VECTOR(WRITES_VECTOR, REAL(pwritev)(fd, parts, number, offset));
}

ssize_t pwritev64(int fd, const struct iovec *parts, int number, off_t offset) {
    VECTOR(WRITES_VECTOR, REAL(pwritev)(fd, parts, number, offset));
}

ssize_t pwritev2(int fd, const struct iovec *parts, int number, off_t offset, int flags) {
    VECTOR(WRITES_VECTOR, REAL(pwritev2)(fd, parts, number, offset, flags));
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int number, off_t offset, int flags) {
    VECTOR(WRITES_VECTOR, REAL(pwritev2)(fd, parts, number, offset, flags));
}

ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t length, unsigned flags) {
    WRITES(to, to_at ? *to_at - written : -1, length, REAL(copy_file_range)(from, from_at, to, to_at, wanted, flags));
}

ssize_t sendfile(int to, int from, off_t *from_at, size_t length) {
    WRITES(to, -1, length, REAL(sendfile)(to, from, from_at, wanted));
}

ssize_t sendfile64(int to, int from, off_t *from_at, size_t length) {
    WRITES(to, -1, length, REAL(sendfile)(to, from, from_at, wanted));
}

/* Changes of a file */

int ftruncate(int fd, off_t size) {
    CHANGE(int, TRUNCATE, fd_is_below(fd), REAL(ftruncate)(fd, size), put_fd(R_TRUNCATE, fd, size, 0));
}

int ftruncate64(int fd, off_t size) {
    CHANGE(int, TRUNCATE, fd_is_below(fd), REAL(ftruncate)(fd, size), put_fd(R_TRUNCATE, fd, size, 0));
}

static void put_size(int fd) {
    struct stat status;
    if (!fstat(fd, &status))
        put_fd(R_TRUNCATE, fd, status.st_size, 0);
}

int fallocate(int fd, int mode, off_t offset, off_t length) {
    CHANGE(int, ALLOCATE, fd_is_below(fd), REAL(fallocate)(fd, mode, offset, length), put_size(fd));
}

int fallocate64(int fd, int mode, off_t offset, off_t length) {
    CHANGE(int, ALLOCATE, fd_is_below(fd), REAL(fallocate)(fd, mode, offset, length), put_size(fd));
}

/* posix_fallocate returns its errno. */
static int allocate(int fd, off_t offset, off_t length) {
    int error = REAL(posix_fallocate)(fd, offset, length);
    errno = error ? error : errno;
    return error ? -1 : 0;
}

static int allocate_counted(int fd, off_t offset, off_t length) {
    CHANGE(int, ALLOCATE, fd_is_below(fd), allocate(fd, offset, length), put_size(fd));
}

int posix_fallocate(int fd, off_t offset, off_t length) { return allocate_counted(fd, offset, length) ? errno : 0; }
int posix_fallocate64(int fd, off_t offset, off_t length) { return allocate_counted(fd, offset, length) ? errno : 0; }

int fsync(int fd) { CHANGE(int, SYNC, fd_is_below(fd), REAL(fsync)(fd), put_fd(R_SYNC, fd, 0, 0)); }
int fdatasync(int fd) { CHANGE(int, SYNC, fd_is_below(fd), REAL(fdatasync)(fd), put_fd(R_SYNC, fd, 0, 0)); }

int fchmod(int fd, mode_t mode) {
    CHANGE(int, CHMOD, fd_is_below(fd), REAL(fchmod)(fd, mode), put_fd(R_CHMOD, fd, 0, mode));
}

static void put_mode(int directory, const char *path, mode_t mode) {
    struct stat status;
    if (status_of(directory, path, &status))
        put((struct header) {R_CHMOD, mode, status.st_ino, 0, 0, 0, 0, 0}, NULL, 0, NULL, 0);
}

int fchmodat(int directory, const char *path, mode_t mode, int flags) {
    CHANGE(int, CHMOD, path_is_below(directory, path, 1), REAL(fchmodat)(directory, path, mode, flags),
           put_mode(directory, path, mode));
}

int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }

int utimensat(int directory, const char *path, const struct timespec times[2], int flags) {
    PLAIN(int, -1, UTIME, path_is_below(directory, path, 1), REAL(utimensat)(directory, path, times, flags));
}

int futimens(int fd, const struct timespec times[2]) {
    PLAIN(int, -1, UTIME, fd_is_below(fd), REAL(futimens)(fd, times));
}

/* Changes of entries */

static void put_rename(int from, const char *old, int to, const char *new, int exchanges) {
    struct stat status = {0};
    status_of(to, new, &status);
    struct header header = {exchanges ? R_EXCHANGE : R_RENAME, status.st_mode, status.st_ino, parent_of(from, old),
                            parent_of(to, new), 0, 0, 0};
    put(header, name_of(old), strlen(name_of(old)), name_of(new), strlen(name_of(new)));
}

int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    CHANGE(int, RENAME, path_is_below(to, new, 0), REAL(renameat2)(from, old, to, new, flags),
           put_rename(from, old, to, new, (flags & RENAME_EXCHANGE) != 0));
}

int renameat(int from, const char *old, int to, const char *new) {
    CHANGE(int, RENAME, path_is_below(to, new, 0), REAL(renameat)(from, old, to, new), put_rename(from, old, to, new, 0));
}

int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *existing, int to, const char *new, int flags) {
    CHANGE(int, LINK, path_is_below(to, new, 0), REAL(linkat)(from, existing, to, new, flags),
           put_entry(R_LINK, to, new, NULL));
}

int link(const char *existing, const char *new) { return linkat(AT_FDCWD, existing, AT_FDCWD, new, 0); }

int symlinkat(const char *target, int directory, const char *path) {
    CHANGE(int, SYMLINK, path_is_below(directory, path, 0), REAL(symlinkat)(target, directory, path),
           put_entry(R_CREATE, directory, path, target));
}

int symlink(const char *target, const char *path) { return symlinkat(target, AT_FDCWD, path); }

int mkdirat(int directory, const char *path, mode_t mode) {
    CHANGE(int, MKDIR, path_is_below(directory, path, 0), REAL(mkdirat)(directory, path, mode),
           put_entry(R_CREATE, directory, path, NULL));
}

int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

int unlinkat(int directory, const char *path, int flags) {
    CHANGE(int, flags & AT_REMOVEDIR ? RMDIR : UNLINK, path_is_below(directory, path, 0),
           REAL(unlinkat)(directory, path, flags), put_entry(R_UNLINK, directory, path, NULL));
}

int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

/* The rest */

int flock(int fd, int operation) { PLAIN(int, -1, LOCK, fd_is_below(fd), REAL(flock)(fd, operation)); }

int statvfs(const char *path, struct statvfs *status) {
    PLAIN(int, -1, STATVFS, path_is_below(AT_FDCWD, path, 1), REAL(statvfs)(path, status));
}

int statvfs64(const char *path, struct statvfs64 *status) { return statvfs(path, (struct statvfs *) status); }

int fstatvfs(int fd, struct statvfs *status) {
    PLAIN(int, -1, STATVFS, fd_is_below(fd), REAL(fstatvfs)(fd, status));
}

int fstatvfs64(int fd, struct statvfs64 *status) { return fstatvfs(fd, (struct statvfs *) status); }
