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

	quoted bool   // a line goes on while a quote of CSV is open
	first  int64  // number of the first line of what was given last
	record []byte // of several lines
}

func newLines(r io.Reader) *lines { return &lines{r: bufio.NewReaderSize(r, LineBytesMax+2)} }

// next gives a line without its end; it is valid until the next call. A quote that
// is not closed within LineBytesMax ends there, too long.
func (l *lines) next() ([]byte, error) {
	line, err := l.line()
	l.first = l.number
	if err != nil || !l.quoted || l.tooLong || !quoteOpen(line, false) {
		return line, err
	}
	l.record = append(l.record[:0], line...)
	for open := true; open; {
		line, err := l.line()
		if err == io.EOF {
			break // the decoder says that the quote is not closed
		}
		if err != nil {
			return nil, err
		}
		if l.tooLong = l.tooLong || len(l.record)+len(line) >= LineBytesMax; l.tooLong {
			break
		}
		l.record = append(append(l.record, '\n'), line...)
		open = quoteOpen(line, true)
	}
	return l.record, nil
}

// quoteOpen reports whether a cell's quote is open behind line, which begins in
// one or not.
func quoteOpen(line []byte, open bool) bool {
	begins := !open // of a cell
	for i := 0; i < len(line); i++ {
		c := line[i]
		switch {
		case open && c == '"' && i+1 < len(line) && line[i+1] == '"':
			i++
		case open:
			open = c != '"'
		case begins:
			open = c == '"'
		}
		begins = !open && c == ','
	}
	return open
}

func (l *lines) line() ([]byte, error) {
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
	if l.number++; l.number == 1 {
		line = bytes.TrimPrefix(line, []byte("\ufeff")) // the byte order mark
	}
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
