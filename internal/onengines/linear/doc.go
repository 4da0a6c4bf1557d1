// Package linear tests that the stores are linearizable: that whatever a subject's
// sessions went through at the hands of many clients at once, each call can be
// thought to have happened at one moment between its beginning and its end.
//
// Clients of several handles on one store admit, create, refresh, end, read, list
// and delete the sessions of one subject. What they called and what they were
// answered is a history, and porcupine looks for an order of its calls that the
// model, a store of a few lines, answers the same. There is only test code here.
package linear
