"""Annotations of events as programs write them."""

import json

import pytest

from slowfast_uniformer.data.event_files import VideoFinder, read_events
from slowfast_uniformer.errors import UserError

AGGREGATED = (
    "Observation id,Observation date,Description,Observation type,Source,Time offset (s),Coding duration,"
    "Media duration (s),FPS (frame/s),Start time,Stop time,Subject,Observation duration by subject by observation,"
    "Behavior,Behavioral category,Modifier #1,Behavior type,Start (s),Stop (s),Duration (s),Media file name,Comment\n"
    "o1,2024-02-03 10:11:12,,Media file(s),player #1:a.mp4,0,60,60,25,2000-01-01,2000-01-02,rat 1,60,groom,care,,STATE,"
    '1.250,2.750,1.5,C:/videos/a.mp4,"says ""hi"", twice"\n'
    "o1,2024-02-03 10:11:12,,Media file(s),player #1:a.mp4,0,60,60,25,2000-01-01,2000-01-02,rat 2,60,sniff,,,POINT,"
    "3.000,3.000,NA,C:/videos/a.mp4,\n"
)
TABULAR = (
    "Observation id,first,,,,,,,\n,,,,,,,,\nMedia file(s),,,,,,,,\nPlayer #1,a.mp4,,,,,,,\nTime offset (s),0.0,,,,,,,\n"
    "Time,Media file path,Total length,FPS,Subject,Behavior,Behavioral category,Comment,Status\n"
    "3.300,a.mp4,359.960,25.0,one,run,,,START\n4.000,a.mp4,359.960,25.0,two,run,,,START\n"
    "5.000,a.mp4,359.960,25.0,one,look,,,POINT\n7.750,a.mp4,359.960,25.0,one,run,,,STOP\n"
    "0:01:02.500,a.mp4,359.960,25.0,two,run,,,STOP\n"
)
ELAN = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT AUTHOR="" DATE="2024-01-01T00:00:00+01:00" FORMAT="3.0" VERSION="3.0">
 <HEADER MEDIA_FILE="" TIME_UNITS="milliseconds">
  <MEDIA_DESCRIPTOR MEDIA_URL="file:///D:/my%20videos/a.wav" MIME_TYPE="audio/x-wav"/>
  <MEDIA_DESCRIPTOR MEDIA_URL="file:///D:/my%20videos/a%201.mp4" MIME_TYPE="video/mp4" TIME_ORIGIN="500"
   RELATIVE_MEDIA_URL="./my%20videos/a%201.mp4"/>
 </HEADER>
 <TIME_ORDER>
  <TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="440"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="2960"/>
  <TIME_SLOT TIME_SLOT_ID="ts3"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="4000"/>
 </TIME_ORDER>
 <TIER LINGUISTIC_TYPE_REF="default" TIER_ID="gesture" PARTICIPANT="Ann">
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
   <ANNOTATION_VALUE> wave </ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts3">
   <ANNOTATION_VALUE>nod</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
  <ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a3" TIME_SLOT_REF1="ts2" TIME_SLOT_REF2="ts4">
   <ANNOTATION_VALUE></ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
 </TIER>
 <TIER LINGUISTIC_TYPE_REF="ref" TIER_ID="hand" PARENT_REF="gesture">
  <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a4" ANNOTATION_REF="a1">
   <ANNOTATION_VALUE>left</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
  <ANNOTATION><REF_ANNOTATION ANNOTATION_ID="a5" ANNOTATION_REF="a5">
   <ANNOTATION_VALUE>itself</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION>
 </TIER>
 <TIER LINGUISTIC_TYPE_REF="default" TIER_ID="empty"/>
</ANNOTATION_DOCUMENT>
"""
ACTIVITYNET = {
    "version": "VERSION 1.3",
    "taxonomy": [],
    "database": {
        "sJ": {
            "duration": 11.2,
            "subset": "training",
            "url": "x",
            "annotations": [
                {"segment": [0.5, 2.25], "label": "Long jump"},
                {"segment": [2, 2], "label": "Long jump"},
                {"segment": [3, 9], "label": "Hurling"},
            ],
        },
        "qR": {"duration": 3.0, "subset": "validation", "annotations": [{"segment": [0, 3], "label": "Hurling"}]},
        "tE": {"duration": 3.0, "subset": "testing", "annotations": []},
    },
}


@pytest.fixture
def read(tmp_path):
    """Write an annotation file and read it: events as tuples, and what is left out."""

    def call(name, text, *tiers):
        (tmp_path / name).write_text(text, encoding="utf-8")
        left_out = []
        events = read_events(str(tmp_path / name), lambda *what: left_out.append(what), tiers)
        return [event[:4] for event in events], [reason for reason, _ in left_out], events

    return call


@pytest.mark.parametrize(
    "text",
    [
        "video,start,end,label\na.mp4,1,2.5,run\nb c.mp4,0:30,1:00.5,high jump\n",
        "label\tend_time\tstart_time\tfilename\nrun\t2.5\t1\ta.mp4\nhigh jump\t60.5\t30.0\tb c.mp4\n",
        "\ufeffVideo;Start;End;Label;who\r\na.mp4;1,0;2,5;run;x\r\n\r\nb c.mp4;30;60,5;high jump;y\r\n",
    ],
)
def test_tables(read, text):
    assert read("events.csv", text)[:2] == ([("a.mp4", 1, 2.5, "run"), ("b c.mp4", 30, 60.5, "high jump")], [])


def test_boris(read):
    found, left_out, events = read("agg.csv", AGGREGATED)
    assert found == [("C:/videos/a.mp4", 1.25, 2.75, "groom")] and left_out == ["point events, which have no length"]
    assert events[0].columns["subject"] == "rat 1"
    found, left_out, events = read("tabular.csv", TABULAR)
    assert found == [("a.mp4", 3.3, 7.75, "run"), ("a.mp4", 4.0, 62.5, "run")] and len(left_out) == 1
    assert [event.columns["subject"] for event in events] == ["one", "two"]
    with pytest.raises(UserError, match=r"line 8: 'run' starts here and never stops"):
        read("open.csv", "".join(TABULAR.splitlines(True)[:-1]))
    with pytest.raises(UserError, match=r"line 7: STOP of 'run' does not follow from the lines before"):
        read("stop.csv", TABULAR.replace("START", "STOP"))


def test_elan(read):
    found, left_out, events = read("a.eaf", ELAN, "gesture")
    assert found == [("./my videos/a 1.mp4", 0.94, 3.46, "wave")] and events[0].columns["participant"] == "Ann"
    assert left_out == ["annotations without times of their own", "annotations without a value"]
    found, left_out, _ = read("a.eaf", ELAN, "hand")
    assert found == [("./my videos/a 1.mp4", 0.94, 3.46, "left")] and len(left_out) == 1
    with pytest.raises(
        UserError, match=r"several tiers have annotations \(gesture, hand\); name one or more with --tier"
    ):
        read("a.eaf", ELAN)
    with pytest.raises(UserError, match="there is no tier 'hands'; tiers with annotations: gesture, hand"):
        read("a.eaf", ELAN, "hands")
    with pytest.raises(UserError, match=r"b.eaf, line \d+: not XML"):
        read("b.eaf", ELAN[:-30])


def test_activitynet(read):
    found, left_out, events = read("a.json", json.dumps(ACTIVITYNET))
    assert found == [("sJ", 0.5, 2.25, "Long jump"), ("sJ", 3, 9, "Hurling"), ("qR", 0, 3, "Hurling")]
    assert len(left_out) == 1 and [event.subset for event in events] == ["train", "train", "val"]
    with pytest.raises(UserError, match="not JSON as ActivityNet's"):
        read("b.json", "[1, 2]")
    with pytest.raises(UserError, match=r"annotation 1 of x: neither a segment"):
        read("c.json", '{"x": {"annotations": [{"label": "y"}]}}')


@pytest.mark.parametrize(
    "text, message",
    [
        ("a.mp4,1,2,run\n", r"line 1: the first line must name the columns video, start, end and label"),
        ("", r"line 1: the first line must name the columns"),
        ("video,start,end,label\na.mp4,3,2,run\n", r"line 2: the segment from 3 to 2 s ends before it begins"),
        ("video,start,end,label\na.mp4,1,2\n", r"line 2: 3 fields, and the header line has 4"),
        ("video,start,end,label\na.mp4,1,2,\n", r"line 2: the line has no label"),
        ("video,start,end,label\n,1,2,run\n", r"line 2: the line has no video"),
        ("video,start,end,label\na.mp4,,,run\n", r"line 2: the line has neither start nor end"),
        ('video,start,end,label\n"a\nb.mp4",1,2,run\nc.mp4,x,2,run\n', r"line 4: start 'x' is not a number"),
    ],
)
def test_faults_are_named_with_their_line(read, text, message):
    with pytest.raises(UserError, match=f"events.csv, {message}"):
        read("events.csv", text)


def test_videos_are_found_by_what_annotations_say_of_them():
    finder = VideoFinder("root", ["a.mp4", "x/b.mp4", "y/b.mp4", "v_Q1.mkv", "frames/c"])
    names = ["a.mp4", "a", "/home/me/a.mp4", "C:\\videos\\a.mp4", "./x/b.mp4", "D:\\z\\y\\b.mp4", "Q1", "c", "nowhere"]
    found = ["a.mp4", "a.mp4", "a.mp4", "a.mp4", "x/b.mp4", "y/b.mp4", "v_Q1.mkv", "frames/c", None]
    assert [finder.find(name) for name in names] == found
    with pytest.raises(UserError, match="b.mp4 can be x/b.mp4 or y/b.mp4"):
        finder.find("b.mp4")
