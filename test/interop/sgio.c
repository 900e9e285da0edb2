/*
 * Lets the programs of sg3-utils talk to a SCSI target in another process: preloaded, it takes the SG_IO ioctl on any file to
 * the Unix socket in BLOCK86_SG_SOCKET, in the name of initiator port BLOCK86_SG_INITIATOR. See sgio.ts for the other side.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <scsi/sg.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define VERSION 30536

struct request {
  uint8_t cdb_length, direction, initiator, function;
  uint32_t length;
};

struct response {
  uint8_t status, sense_length, pad[2];
  uint32_t transferred;
};

enum { NONE, OUT, IN };

static int peer = -1;

static int connected(void) {
  const char *path = getenv("BLOCK86_SG_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (peer >= 0) return 1;
  if (path == NULL || strlen(path) >= sizeof address.sun_path) return 0;
  strcpy(address.sun_path, path);
  peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  return peer >= 0 && connect(peer, (struct sockaddr *)&address, sizeof address) == 0;
}

static int put(const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t done = write(peer, at, length);
    if (done <= 0) return 0;
    at += done;
    length -= done;
  }
  return 1;
}

static int get(void *bytes, size_t length) {
  for (char *at = bytes; length > 0;) {
    ssize_t done = read(peer, at, length);
    if (done <= 0) return 0;
    at += done;
    length -= done;
  }
  return 1;
}

static int transport(int function, struct sg_io_hdr *header) {
  const char *initiator = getenv("BLOCK86_SG_INITIATOR");
  struct request request = {.initiator = initiator ? atoi(initiator) : 7, .function = function};
  struct response response;
  unsigned char sense[256];
  if (!connected()) return errno = ENXIO, -1;
  if (header != NULL) {
    if (header->iovec_count > 0) return errno = EINVAL, -1;
    request.cdb_length = header->cmd_len;
    request.length = header->dxfer_len;
    request.direction = header->dxfer_direction == SG_DXFER_NONE ? NONE : header->dxfer_direction == SG_DXFER_TO_DEV ? OUT : IN;
  }
  if (!put(&request, sizeof request)) return errno = EIO, -1;
  if (header != NULL && !put(header->cmdp, header->cmd_len)) return errno = EIO, -1;
  if (request.direction == OUT && !put(header->dxferp, request.length)) return errno = EIO, -1;
  if (!get(&response, sizeof response) || !get(sense, response.sense_length)) return errno = EIO, -1;
  if (header == NULL) return 0;
  if (request.direction == IN && !get(header->dxferp, response.transferred)) return errno = EIO, -1;
  header->status = response.status;
  header->masked_status = response.status >> 1;
  header->msg_status = header->host_status = 0;
  header->driver_status = response.sense_length > 0 ? 8 : 0;
  header->sb_len_wr = response.sense_length < header->mx_sb_len ? response.sense_length : header->mx_sb_len;
  if (header->sbp != NULL) memcpy(header->sbp, sense, header->sb_len_wr);
  header->resid = (int)(request.length - response.transferred);
  header->duration = 0;
  header->info = response.status == 0 ? SG_INFO_OK : SG_INFO_CHECK;
  return 0;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list arguments;
  va_start(arguments, request);
  void *argument = va_arg(arguments, void *);
  va_end(arguments);
  switch (request) {
    case SG_GET_VERSION_NUM:
      *(int *)argument = VERSION;
      return 0;
    case SG_SCSI_RESET:
      return transport(1, NULL);
    case SG_IO:
      return transport(0, argument);
    default:
      return (int)syscall(SYS_ioctl, fd, request, argument);
  }
}
