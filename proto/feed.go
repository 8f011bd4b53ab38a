package proto

import "time"

// FeedChange is what a line of a client's feed of memberships says.
type FeedChange uint8

// The kinds of lines. Of an identity are FeedEntered and FeedLeft; of a segment
// those and FeedDefined and FeedUndefined: another rule answers in the lane, or
// none. FeedBegan says that a lane tells all from there on, FeedLost that it
// could not keep what came before.
const (
	FeedLeft FeedChange = iota
	FeedEntered
	FeedDefined
	FeedUndefined
	FeedBegan
	FeedLost
)

// OfIdentity reports whether such a line names an identity.
func (c FeedChange) OfIdentity() bool { return c <= FeedEntered }

// OfSegment reports whether such a line names a segment.
func (c FeedChange) OfSegment() bool { return c <= FeedUndefined }

func (c FeedChange) String() string {
	if int(c) < len(feedChanges) {
		return feedChanges[c]
	}
	return "unknown"
}

var feedChanges = [...]string{"left", "entered", "defined", "undefined", "began", "lost"}

// FeedLine is one change. Its ID, lane:offset:number, is the same however often
// the change is told; of one lane they ascend.
type FeedLine struct {
	ID       string    `json:"id"`
	Time     time.Time `json:"time"`
	Change   string    `json:"change"`
	Segment  SegmentID `json:"segment,omitempty"`
	Identity string    `json:"identity,omitempty"` // its name in this client's feed
}

// FeedMessage is one message of a feed. Told is, for each lane, the ID up to
// which all was told with this message.
type FeedMessage struct {
	Sequence uint64     `json:"sequence,omitempty"` // in the feed; of a message that was heard in its header
	Told     []string   `json:"told"`
	Changes  []FeedLine `json:"changes"`
}

// FeedPage is a part of a feed. Next is what to ask for next, as after; Missed
// says that messages before the first one are not kept any more.
type FeedPage struct {
	Messages []FeedMessage `json:"messages"`
	Next     uint64        `json:"next"`
	Missed   bool          `json:"missed,omitempty"`
}
