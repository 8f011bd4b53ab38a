package log

import (
	"errors"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// errAmbiguous marks an error after which the entry may or may not be stored.
var errAmbiguous = errors.New("outcome unknown")

// Ambiguous reports whether, after err, the record may or may not be in the
// log. All other errors of an append say that it is not.
func Ambiguous(err error) bool { return errors.Is(err, errAmbiguous) }

func ambiguous(why string) error {
	e := proto.Errorf(proto.CodeUnavailable, "the log did not answer (%s), it is not known whether the entry is stored: try again", why)
	e.Err = errAmbiguous
	return e
}

// JetStream's error numbers that matter here; they never change.
const (
	natsNoStorage     = 10047
	natsNoResources   = 10023
	natsNoMemory      = 10028
	natsStoreFailed   = 10077
	natsWrongLast     = 10071
	natsTooMany       = 10167
	natsNotEnabled    = 10076
	natsNotEnabledAcc = 10039
	natsStreamOffline = 10118
	natsMessageTooBig = 10054
	natsWrongStream   = 10060
	natsNoStream      = 10059
)

// refusalOf turns the server's refusal of a message into our error.
func refusalOf(stream string, e *jetstream.APIError) error {
	switch int(e.ErrorCode) {
	case natsNoStorage, natsNoResources, natsNoMemory:
		return diskFull(stream, e)
	case natsStoreFailed:
		if strings.Contains(e.Description, "maximum") || strings.Contains(e.Description, "no space") {
			return diskFull(stream, e)
		}
		// The write itself failed; part of it may be on disk.
		return ambiguous(e.Description)
	case natsWrongLast:
		return proto.Errorf(proto.CodeConflict, "%s has moved on: %w", stream, e)
	case natsTooMany:
		return proto.Errorf(proto.CodeOverloaded, "%s has too many entries waiting for the disk: try again later: %w", stream, e)
	case natsMessageTooBig:
		return proto.Errorf(proto.CodeTooLarge, "the entry is larger than %s takes: %w", stream, e)
	}
	return proto.Errorf(proto.CodeUnavailable, "%s refused the entry: %w", stream, e)
}

func diskFull(stream string, cause error) error {
	return proto.Errorf(proto.CodeDiskFull, "%s is full: free disk space, raise log_max_bytes or shorten log_retention: %w", stream, cause)
}
