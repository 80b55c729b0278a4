// The one program in the root of the tests' containers.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

static void size(int sig) {
  struct winsize w = {0};
  (void)sig;
  ioctl(0, TIOCGWINSZ, &w);
  printf("%dx%d\n", w.ws_row, w.ws_col);
}
static void told(int sig) {
  printf("signal %d\n", sig);
  exit(40 + sig);
}

int main(int argc, char **argv) {
  setvbuf(stdout, 0, _IOLBF, 0);
  for (int i = 1; i < argc; i++) {
    const char *w = argv[i];
    const char *v = i + 1 < argc ? argv[i + 1] : "";
    if (!strcmp(w, "out")) puts(v), i++;
    else if (!strcmp(w, "err")) fprintf(stderr, "%s\n", v), i++;
    else if (!strcmp(w, "part")) fputs(v, stdout), fflush(stdout), i++;
    else if (!strcmp(w, "exit")) exit(atoi(v));
    else if (!strcmp(w, "kill")) kill(getpid(), atoi(v)), i++;
    else if (!strcmp(w, "abort")) signal(SIGABRT, SIG_DFL), abort();
    else if (!strcmp(w, "msleep")) usleep(1000 * atoi(v)), i++;
    else if (!strcmp(w, "sleep")) for (;;) pause();
    else if (!strcmp(w, "trap")) signal(atoi(v), told), i++;
    else if (!strcmp(w, "ignore")) signal(atoi(v), SIG_IGN), i++;
    else if (!strcmp(w, "exists")) exit(access(v, F_OK) ? 1 : 0);
    else if (!strcmp(w, "create")) close(open(v, O_CREAT | O_WRONLY, 0644)), i++;
    else if (!strcmp(w, "unlink")) unlink(v), i++;
    else if (!strcmp(w, "size")) signal(SIGWINCH, size), size(0);
    else if (!strcmp(w, "tty")) puts(isatty(0) && isatty(1) && isatty(2) ? "tty" : "no tty");
    else if (!strcmp(w, "cat")) {
      char b[65536];
      ssize_t n;
      while ((n = read(0, b, sizeof b)) > 0)
        if (write(1, b, n) != n) exit(9);
      puts("end");
    } else if (!strcmp(w, "line")) {
      char b[4096];
      if (!fgets(b, sizeof b, stdin)) exit(8);
      printf("got %s", b);
    } else if (!strcmp(w, "flood")) {  // so many MiB
      static char b[1 << 20];
      for (size_t n = 0; n < sizeof b; n++) b[n] = n % 100 == 99 ? '\n' : 'a' + n % 26;
      for (int n = atoi(v); n > 0; n--)
        for (size_t at = 0; at < sizeof b;) {
          ssize_t did = write(1, b + at, sizeof b - at);
          if (did < 0) exit(7);
          at += did;
        }
      i++;
    } else if (!strcmp(w, "eat")) {  // so many MiB of memory
      size_t len = (size_t)atoi(v) << 20;
      char *p = malloc(len);
      if (p) memset(p, 1, len);
      i++;
    } else if (!strcmp(w, "fds")) {  // every descriptor and what it is
      DIR *d = opendir("/proc/self/fd");
      struct dirent *e;
      while (d && (e = readdir(d))) {
        char from[64], to[512];
        if (e->d_name[0] == '.' || atoi(e->d_name) == dirfd(d)) continue;
        snprintf(from, sizeof from, "/proc/self/fd/%.20s", e->d_name);
        ssize_t n = readlink(from, to, sizeof to - 1);
        to[n > 0 ? n : 0] = 0;
        printf("fd %s %s\n", e->d_name, to);
      }
    } else if (!strcmp(w, "signals")) {  // what is blocked and ignored
      char b[4096];
      FILE *f = fopen("/proc/self/status", "r");
      while (f && fgets(b, sizeof b, f))
        if (!strncmp(b, "SigBlk", 6) || !strncmp(b, "SigIgn", 6)) fputs(b, stdout);
    } else if (!strcmp(w, "umask")) {
      printf("umask %03o\n", umask(022));
    } else {
      fprintf(stderr, "what is %s?\n", w);
      exit(99);
    }
  }
  return 0;
}
