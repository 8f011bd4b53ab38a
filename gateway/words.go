package gateway

import "kith/proto"

// languages are what the pages are written in, the first for all who like none of
// them.
var languages = []*words{&english, &german}

// words are all texts of the pages in one language. What is missing is missing on
// the page: a test looks at every field.
type words struct {
	Lang, Name    string // of the language
	Skip          string
	LanguageLabel string

	OptOutTitle, OptOutLead string
	StateHead               string
	IsOut, IsIn             string
	SignalsHead             string
	SignalHead, EffectHead  string
	OptOutButton            string
	EverywhereLabel         string
	OptOutRest              string // after an opt-out signal: what the button still does
	OptInLead, OptInButton  string
	CookieNote              string
	ToChoices, ToOptOut     string
	ReceiptHead             string

	ChoicesTitle, ChoicesLead string
	SitesHead, NoSites        string
	SitesUnasked              string
	SiteHead                  string
	SayHead, SayLead          string
	AgeHead, GenderHead       string
	Unsaid                    string
	ChildNote                 string
	SaveButton                string
	CannotSay                 string
	TraitsHead, TraitsLead    string
	FixedTrait                string
	RemoveButton              string
	HeldHead, NothingHeld     string
	HeldOfSeveral, SeveralGo  string
	Unproven                  string // why nothing is shown without a proof
	FirstSeen, LastSeen       string
	SegmentsHead, NoSegments  string
	EventsHead, EventsNote    string
	TimeHead, EventHead       string
	PlaceHead                 string
	Truncated                 string
	RecordLink                string
	EraseHead, EraseLead      string
	EraseButton               string
	AllSites                  string

	NowOut, NowIn, StillOut string
	NowChild, Saved, Erased string // NowChild is before what came of the opt-out
	ChildLinked             string // behind it
	NowGoing, ErasedGoing   string // not final yet
	NothingChosen           string // in a form that was sent
	UnseenOut, UnseenErased string // the browser showed nothing by which to look
	UnseenRest              string // likewise, behind what was erased all the same:
	StatisticalGone         string // of statistical ids
	StatisticalGoing        string
	GoingAgain              string // and how to see that it is
	CrowdedRest             string // of more identities than are looked at
	NotShown                string // of what a client holds, alone or behind what came of a form
	Failure                 string // of a cause that Failures does not have

	Ages, Genders map[string]string
	By            map[string]string // why nothing is stored, by the signal
	Signals       map[string]string
	Effects       map[string]string
	Failures      map[proto.Code]string
}
