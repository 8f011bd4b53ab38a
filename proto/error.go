package proto

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code names a kind of error for programs. The list only grows; docs/api.md
// says what to do about each.
type Code string

// Codes of errors and refusals.
const (
	CodeInvalid      Code = "invalid"      // the request is not well-formed
	CodeJSON         Code = "json"         // the body is not the JSON that the route takes
	CodeIdentity     Code = "identity"     // an identity is not valid
	CodeEvent        Code = "event"        // an event's name or properties are not valid
	CodeTime         Code = "time"         // an event's time is out of range
	CodePII          Code = "pii"          // an event holds personal data
	CodeBot          Code = "bot"          // a robot's event, where those are dropped
	CodeSensitive    Code = "sensitive"    // something names a sensitive category
	CodeUnproven     Code = "unproven"     // an account, or the browser itself, without a valid proof
	CodeOptedOut     Code = "opted_out"    // consent is refused
	CodeClient       Code = "client"       // the client is unknown or its name not valid
	CodeSegment      Code = "segment"      // the segment's id is not valid
	CodeRule         Code = "rule"         // the rule does not parse or is not supported
	CodeExpr         Code = "expr"         // an audience expression does not parse
	CodeFloor        Code = "floor"        // an answer would tell of too few people
	CodeBelow        Code = "below"        // an import matches too few people
	CodeNotFound     Code = "not_found"    // what was named does not exist
	CodeConflict     Code = "conflict"     // it exists already, or is in use
	CodeUnauthorized Code = "unauthorized" // no key, or an unknown one
	CodeForbidden    Code = "forbidden"    // the key's role does not allow it
	CodeTooLarge     Code = "too_large"    // a body or list is over its limit
	CodeRateLimited  Code = "rate_limited" // the client's rate limit is reached
	CodeUnavailable  Code = "unavailable"  // not durable or not reachable now: try again
	CodeOverloaded   Code = "overloaded"   // a queue is full: try again later
	CodeDiskFull     Code = "disk_full"    // the disk is nearly full
	CodeQuarantined  Code = "quarantined"  // a lane stopped: an operator must look
	CodeTimeout      Code = "timeout"      // the deadline passed
	CodeCorrupt      Code = "corrupt"      // stored bytes do not check out
	CodeMethod       Code = "method"       // the route exists, the method does not
	CodeMediaType    Code = "media_type"   // the content type or encoding is not taken
	CodeInternal     Code = "internal"     // a bug; the log has more
)

// Error is the one error type across rooms. Message says what is wrong and
// what to do; it never holds a secret. Line and Column, from 1, are set where
// a text was parsed.
type Error struct {
	Code         Code
	Message      string
	Line, Column int
	RetryAfter   time.Duration // when to try again, if that is known
	Err          error         // the cause, not shown to clients
}

func (e *Error) Error() string {
	s := string(e.Code) + ": " + e.Message
	if e.Line > 0 {
		s = fmt.Sprintf("%s (line %d, column %d)", s, e.Line, e.Column)
	}
	if e.Err == nil {
		return s
	}
	if cause := e.Err.Error(); !strings.Contains(s, cause) {
		s += ": " + cause
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error; a %w operand becomes its cause, and where it ends the
// text it is no part of the message.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	e := &Error{Code: code, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
	if e.Err != nil {
		e.Message = strings.TrimSuffix(e.Message, ": "+e.Err.Error())
	}
	return e
}

// RetryAfterOf is when the first Error in err's chain says to try again, 0 if it does
// not say.
func RetryAfterOf(err error) time.Duration {
	var e *Error
	if errors.As(err, &e) {
		return e.RetryAfter
	}
	return 0
}

// CodeOf is the code of the first Error in err's chain, CodeInternal if there
// is none, and "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}
