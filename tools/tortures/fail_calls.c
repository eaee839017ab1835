/* Preloaded: the file call number `at` below a folder, or each from that one on, fails with a code.
   Counted are the calls of open, write, sync, rename, mkdir, unlink, truncate, chmod and close. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long count, at;
static int code, forever;

/* at 0: nothing fails, and calls are counted */
void arm(const char *below, long first, int number, int always) {
  strncpy(folder, below, sizeof folder - 1);
  code = number; forever = always; at = first;
  __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
}

long counted(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

void disarm(void) { folder[0] = 0; }

static int fails(const char *path) {
  if (!folder[0] || strncmp(path, folder, strlen(folder))) return 0;
  long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
  if (!at || (forever ? now < at : now != at)) return 0;
  errno = code;
  return 1;
}

static int fails_at(int directory, const char *path) {
  char name[64], whole[2 * PATH_MAX];
  if (!folder[0] || !path) return 0;
  if (path[0] == '/') return fails(path);
  if (directory == AT_FDCWD) strcpy(name, "/proc/self/cwd");
  else snprintf(name, sizeof name, "/proc/self/fd/%d", directory);
  ssize_t length = readlink(name, whole, PATH_MAX - 1);
  if (length < 0) return 0;
  whole[length] = '/';
  strncpy(whole + length + 1, path, PATH_MAX - 1);
  whole[length + PATH_MAX] = 0;
  return fails(whole);
}

static int fails_of(int descriptor) {
  char name[64], path[PATH_MAX];
  if (!folder[0]) return 0;
  snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(name, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return fails(path);
}

#define REAL(type, name, ...) static type (*real)(__VA_ARGS__); if (!real) real = dlsym(RTLD_NEXT, name)
#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define OPEN(name) int name(const char *path, int flags, ...) { MODE REAL(int, #name, const char *, int, ...); return fails_at(AT_FDCWD, path) ? -1 : real(path, flags, mode); }
#define OPENAT(name) int name(int d, const char *path, int flags, ...) { MODE REAL(int, #name, int, const char *, int, ...); return fails_at(d, path) ? -1 : real(d, path, flags, mode); }
#define FOPEN(name) FILE *name(const char *path, const char *how) { REAL(FILE *, #name, const char *, const char *); return fails_at(AT_FDCWD, path) ? NULL : real(path, how); }
#define PATH_ONLY(name) int name(const char *path) { REAL(int, #name, const char *); return fails_at(AT_FDCWD, path) ? -1 : real(path); }
#define PATH_MODE(name) int name(const char *path, mode_t mode) { REAL(int, #name, const char *, mode_t); return fails_at(AT_FDCWD, path) ? -1 : real(path, mode); }
#define OF_FD(name) int name(int d) { REAL(int, #name, int); return fails_of(d) ? -1 : real(d); }
#define OF_FD_SIZE(name) int name(int d, off_t size) { REAL(int, #name, int, off_t); return fails_of(d) ? -1 : real(d, size); }

OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)
PATH_ONLY(unlink) PATH_ONLY(rmdir) PATH_MODE(mkdir) PATH_MODE(chmod)
OF_FD(fsync) OF_FD(fdatasync) OF_FD_SIZE(ftruncate) OF_FD_SIZE(ftruncate64)

int close(int d) { /* it is closed all the same, as Linux does */
  REAL(int, "close", int);
  int kept = 0, failed = fails_of(d);
  if (failed) kept = errno;
  int result = real(d);
  if (failed) { errno = kept; return -1; }
  return result;
}
ssize_t write(int d, const void *from, size_t size) { REAL(ssize_t, "write", int, const void *, size_t); return fails_of(d) ? -1 : real(d, from, size); }
ssize_t writev(int d, const struct iovec *from, int parts) { REAL(ssize_t, "writev", int, const struct iovec *, int); return fails_of(d) ? -1 : real(d, from, parts); }
ssize_t pwrite64(int d, const void *from, size_t size, off64_t place) { REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); return fails_of(d) ? -1 : real(d, from, size, place); }
int rename(const char *from, const char *to) { REAL(int, "rename", const char *, const char *); return fails_at(AT_FDCWD, from) ? -1 : real(from, to); }
int renameat(int a, const char *from, int b, const char *to) { REAL(int, "renameat", int, const char *, int, const char *); return fails_at(a, from) ? -1 : real(a, from, b, to); }
int unlinkat(int d, const char *path, int flags) { REAL(int, "unlinkat", int, const char *, int); return fails_at(d, path) ? -1 : real(d, path, flags); }
int mkdirat(int d, const char *path, mode_t mode) { REAL(int, "mkdirat", int, const char *, mode_t); return fails_at(d, path) ? -1 : real(d, path, mode); }
int fchmod(int d, mode_t mode) { REAL(int, "fchmod", int, mode_t); return fails_of(d) ? -1 : real(d, mode); }
