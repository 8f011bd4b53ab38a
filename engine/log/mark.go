package log

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/nats-io/nats.go/jetstream"

	"kith/proto"
)

// What the control stream's metadata say of the whole log. A node with another number
// of lanes or hash secret would append what no other can apply.
const (
	lanesKey  = "kith.lanes"
	secretKey = "kith.secret"
)

// SecretMark is the mark of the hash secret that the log was made with, "" if it has none.
func (l *Log) SecretMark() string { return l.control.js.CachedInfo().Config.Metadata[secretKey] }

// controlConfig is the control stream's, with the marks of the log.
func (l *Log) controlConfig() jetstream.StreamConfig {
	c := streamConfig("KITH_CTL", "kith.ctl", ControlBytesMax)
	if l.config.Mark != "" {
		c.Metadata[lanesKey], c.Metadata[secretKey] = strconv.Itoa(l.config.Lanes), l.config.Mark
	}
	return c
}

// marked compares the marks that want has with those of the stream that is there, and
// gives its metadata with those that it lacks and may get.
func (l *Log) marked(ctx context.Context, want *jetstream.StreamConfig, info *jetstream.StreamInfo) (map[string]string, error) {
	has := info.Config.Metadata
	lanes, secret := want.Metadata[lanesKey], want.Metadata[secretKey]
	switch {
	case lanes == "":
		return has, nil
	case has[lanesKey] == "":
		if err := l.lanesFit(ctx, info.State.LastSeq); err != nil || !l.config.Marked && info.State.LastSeq > 0 {
			return has, err
		}
		has = maps.Clone(has)
		has[lanesKey], has[secretKey] = lanes, secret
	case has[lanesKey] != lanes:
		return nil, errOtherLanes(has[lanesKey], lanes)
	case has[secretKey] != secret:
		return nil, proto.Errorf(proto.CodeConflict, "the hash secret is not the one that this log was made with: put back secrets/hash.key (or the configured hash secret); of a cluster it is the same for all nodes")
	}
	return has, nil
}

// lanesFit refuses a log without marks, in which something is, if it has streams of
// other lanes than the configuration.
func (l *Log) lanesFit(ctx context.Context, last uint64) error {
	if last == 0 {
		return nil
	}
	var got, want []string
	list := l.js.StreamNames(ctx, jetstream.WithStreamListSubject("kith.log.*"))
	for name := range list.Name() {
		got = append(got, name)
	}
	if err := list.Err(); err != nil {
		return proto.Errorf(proto.CodeUnavailable, "the log's streams cannot be listed: %w", err)
	}
	for i := range l.config.Lanes {
		want = append(want, laneStreamName(proto.LaneID(i)))
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		return errOtherLanes(strconv.Itoa(len(got)), strconv.Itoa(len(want)))
	}
	return nil
}

func errOtherLanes(has, want string) error {
	return proto.Errorf(proto.CodeConflict, "the log has %s lanes, the configuration says %s: the number of lanes is fixed, set it to %s, of a cluster on all nodes; another number is had from a backup (`kith restore --lanes`)", has, want, has)
}
