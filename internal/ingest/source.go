package ingest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"kith/proto"
)

// spoolBytesMax bounds the temporary file of a shifted stream.
const spoolBytesMax = 16 << 30

// Source is an input that may be read twice, as --shift does: once to find
// the newest time, once to send. A stream is spooled to a temporary file for
// that. Gzip and zstd are undone where the bytes say so.
type Source struct {
	path  string
	file  *os.File  // the spool, if there is one
	in    io.Reader // the stream, if it is one; read once
	bytes int64
}

// OpenSource opens a file, or stdin for "-". twice says that it will be read
// twice, which a pipe can not be, though it may have a path.
func OpenSource(path string, stdin io.Reader, twice bool) (*Source, error) {
	if path != "-" {
		info, err := os.Stat(path)
		if err != nil {
			return nil, proto.Errorf(proto.CodeNotFound, "cannot read %s: %w", path, err)
		}
		if info.IsDir() {
			return nil, proto.Errorf(proto.CodeInvalid, "%s is a directory: name a file, or - for standard input", path)
		}
		if info.Mode().IsRegular() {
			return &Source{path: path, bytes: info.Size()}, nil
		}
		s := &Source{path: path, bytes: -1}
		if !twice {
			return s, nil
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, proto.Errorf(proto.CodeNotFound, "cannot read %s: %w", path, err)
		}
		defer f.Close()
		s.in = f
		return s, s.spool()
	}
	s := &Source{in: stdin, bytes: -1}
	if !twice {
		return s, nil
	}
	return s, s.spool()
}

// spool copies the stream to a file that vanishes with the process.
func (s *Source) spool() error {
	f, err := os.CreateTemp("", "kith-ingest-*")
	if err != nil {
		return proto.Errorf(proto.CodeInvalid, "--shift reads its input twice and needs a temporary file: %w", err)
	}
	s.file = f
	err = os.Remove(f.Name()) // it lives until it is closed
	n, copyErr := io.Copy(f, io.LimitReader(s.in, spoolBytesMax+1))
	if err = errors.Join(err, copyErr); err != nil {
		return proto.Errorf(proto.CodeInvalid, "cannot keep the input for --shift: %w", err)
	}
	if n > spoolBytesMax {
		return proto.Errorf(proto.CodeTooLarge, "the input is over %d GiB, too much for --shift: put it into a file and pass -f FILE", spoolBytesMax>>30)
	}
	s.bytes = n
	return nil
}

// Bytes is the size of what Open gives before decompression, -1 if unknown.
func (s *Source) Bytes() int64 { return s.bytes }

// Compressed reports whether progress in lines says little about progress in
// the file.
func (s *Source) Compressed() bool {
	return strings.HasSuffix(s.path, ".gz") || strings.HasSuffix(s.path, ".zst")
}

// Open gives the input from its start.
func (s *Source) Open() (io.ReadCloser, error) {
	switch {
	case s.file != nil:
		return unzip(io.NopCloser(io.NewSectionReader(s.file, 0, s.bytes)))
	case s.in != nil:
		return unzip(io.NopCloser(s.in))
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, proto.Errorf(proto.CodeNotFound, "cannot read %s: %w", s.path, err)
	}
	return unzip(f)
}

// Close lets go of the spool.
func (s *Source) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

// zstdWindowMax bounds the memory that a zstd input may want, as zstd itself does
// unless told otherwise: what --long and --ultra -22 write is within it.
const zstdWindowMax = 128 << 20

// unzip looks at the first bytes, so that a compressed pipe works too.
func unzip(in io.ReadCloser) (io.ReadCloser, error) {
	buffered := bufio.NewReader(in)
	magic, err := buffered.Peek(4)
	if err != nil && err != io.EOF {
		return nil, errors.Join(proto.Errorf(proto.CodeInvalid, "cannot read the input: %w", err), in.Close())
	}
	switch {
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindowMax))
		if err != nil {
			return nil, errors.Join(proto.Errorf(proto.CodeInvalid, "the input begins like zstd but is not: %w", err), in.Close())
		}
		return joined{z, closers{z.IOReadCloser(), in}}, nil
	case !bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return joined{buffered, in}, nil
	}
	z, err := gzip.NewReader(buffered)
	if err != nil {
		return nil, errors.Join(proto.Errorf(proto.CodeInvalid, "the input begins like gzip but is not: %w", err), in.Close())
	}
	return joined{z, in}, nil
}

// closers are closed in their order.
type closers []io.Closer

func (c closers) Close() (err error) {
	for _, x := range c {
		err = errors.Join(err, x.Close())
	}
	return err
}

type joined struct {
	io.Reader
	io.Closer
}
