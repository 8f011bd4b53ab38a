package ingest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// LineBytesMax bounds a line; a longer one is refused, and the rest of the
// input is read on.
const LineBytesMax = 64 << 10

// lines splits an input, counting. A last line without a newline counts.
type lines struct {
	r       *bufio.Reader
	number  int64 // of the line given last, from 1
	read    int64 // bytes
	tooLong bool  // the line given last was cut off
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, LineBytesMax+2)} }

// next gives a line without its end; it is valid until the next call.
func (l *lines) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	l.read += int64(len(line))
	l.tooLong = errors.Is(err, bufio.ErrBufferFull)
	switch {
	case l.tooLong:
		err = l.skipRest()
	case err == io.EOF && len(line) > 0:
		err = nil
	}
	if err != nil {
		return nil, err
	}
	l.number++
	line = bytes.TrimSuffix(line, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	l.tooLong = l.tooLong || len(line) > LineBytesMax
	return line, nil
}

func (l *lines) skipRest() error {
	for {
		part, err := l.r.ReadSlice('\n')
		l.read += int64(len(part))
		if err == nil || err == io.EOF {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
