"""What is odd about sources in the field: one small named change each, done to the encoded values of a valid source.

Odd values are put in as bytes, so that what arrives is what a sender would have sent, whatever our own library thinks
of it. `ODDITIES` is the table of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import pydicom.uid as uids
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from dicom_gam.records import Reason, ResultReference, ResultRole, Verdict
from tests.conformance.sources import DIGITAL, KINDS, uid

Change = Callable[[Dataset], None]
SECRET = "Secret"  # stands in every private attribute, and so may stand in no result
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge")
_STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")


VERDICTS: tuple[str, ...] = tuple(str(verdict) for verdict in Verdict)


@dataclass(frozen=True, slots=True)
class Oddity:
    """A change, and what must come of it.

    `kept` is what the results must say where that is not what pydicom reads in the source: known texts for names in
    character sets, "" for a value that no result may repeat. `refused` is why such a source has no results at all.
    The last ones are not about the source, but about what was found in it and what is wanted.
    """

    change: Change = lambda ds: None
    kinds: tuple[str, ...] = tuple(KINDS)
    shape: tuple[int, int] = (96, 80)
    bits: tuple[int, int] = (16, 12)  # allocated, stored
    signed: bool = False
    syntax: str = uids.ExplicitVRLittleEndian
    kept: Mapping[str, str] = field(default_factory=dict)
    character_set: tuple[str, ...] | None = None  # None: the source's own
    refused: Reason | None = None
    output: Mapping[str, str] = field(default_factory=dict)  # settings of the output
    found: Mapping[str, object] = field(default_factory=dict)  # of the verification
    predecessors: tuple[ResultReference, ...] = ()
    absent: tuple[ResultRole, ...] = ()  # objects that there is no reason for
    verdicts: tuple[str, ...] = VERDICTS  # those it can have


def put(ds: Dataset, **values: bytes) -> None:
    """Set encoded values, valid or not."""
    for keyword, value in values.items():
        tag, representation = Tag(tag_for_keyword(keyword) or 0), dictionary_VR(keyword)
        padded = value + (b"\0" if representation == "UI" else b" ") * (len(value) % 2)
        ds[tag] = RawDataElement(tag, representation, len(padded), padded, 0, False, True)


def _with(**values: object) -> Change:
    """Set values that pydicom thinks valid."""

    def change(ds: Dataset) -> None:
        for keyword, value in values.items():
            setattr(ds, keyword, value)

    return change


def _bytes(**values: bytes) -> Change:
    return lambda ds: put(ds, **values)


def _without(*keywords: str) -> Change:
    def change(ds: Dataset) -> None:
        for keyword in keywords:
            ds.pop(keyword, None)

    return change


def _all(*changes: Change) -> Change:
    def change(ds: Dataset) -> None:
        for one in changes:
            one(ds)

    return change


def _text(character_set: bytes, encoding: str, name: str, description: str) -> Change:
    """A patient's name and a study description in a character set."""
    values = {"SpecificCharacterSet": character_set, "PatientName": name.encode(encoding)}
    return _bytes(**values, StudyDescription=description.encode(encoding))


def _named(name: str, description: str, **more: str) -> dict[str, str]:
    return {"PatientName": name, "StudyDescription": description, **more}


def _private(ds: Dataset) -> None:
    block = ds.private_block(0x0011, f"{SECRET} Maker", create=True)
    block.add_new(0x01, "LO", f"{SECRET} name")
    item = Dataset()
    item.PatientName = f"{SECRET}^Nested"
    item.private_block(0x0013, f"{SECRET} inner", create=True).add_new(0x01, "UN", SECRET.encode())
    block.add_new(0x02, "SQ", [item])
    ds.private_block(0x0009, SECRET, create=True).add_new(0x10, "UN", SECRET.encode() * 100)
    ds.add(DataElement(0x00170099, "UN", SECRET.encode()))  # without a private creator


def _identity_in_sequences(ds: Dataset) -> None:
    """Identifiers with issuers and a procedure code, in UTF-8 (the item has the data set's character set)."""
    put(ds, SpecificCharacterSet=b"ISO_IR 192")
    other, issuer, procedure = Dataset(), Dataset(), Dataset()
    put(other, PatientID="ID-ß".encode(), IssuerOfPatientID="Köln".encode(), TypeOfPatientID=b"TEXT")
    other.private_block(0x0011, SECRET, create=True).add_new(0x01, "LO", SECRET)
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3.4", "ISO"
    put(procedure, CodeValue=b"XR1", CodingSchemeDesignator=b"99SITE", CodeMeaning="Röntgen Thorax".encode())
    ds.OtherPatientIDsSequence = [other]
    ds.IssuerOfPatientIDQualifiersSequence = [issuer]
    ds.ProcedureCodeSequence = [procedure]


def _voi_luts(ds: Dataset) -> None:
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction"):
        ds.pop(keyword, None)
    ds.VOILUTSequence = [_lut("DARK", 200), _lut("BRIGHT", 20)]


def _modality_lut(ds: Dataset) -> None:
    for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType"):
        ds.pop(keyword, None)
    lut = _lut("OD to P", 0)
    lut.ModalityLUTType = "US"
    ds.ModalityLUTSequence = [lut]
    ds.WindowCenter, ds.WindowWidth = "32768", "65536"


def _lut(explanation: str, start: int) -> Dataset:
    """A table of 4096 entries of 16 bits."""
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 16])
    item.LUTExplanation = explanation
    entries = (min(65535, start + 16 * i) for i in range(4096))
    item.add_new(0x00283006, "OW", b"".join(e.to_bytes(2, "little") for e in entries))
    return item


def _lossy(ratio: str, method: str) -> Change:
    return _with(LossyImageCompression="01", LossyImageCompressionRatio=ratio, LossyImageCompressionMethod=method)


def _frames(number: int, sop_class_uid: str) -> Change:
    """PS3.3 A.8.3 and A.8.4: a Secondary Capture that could have many frames."""

    def change(ds: Dataset) -> None:
        ds.SOPClassUID, ds.NumberOfFrames = sop_class_uid, number
        ds.PresentationLUTShape = "IDENTITY"
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
        ds.PatientOrientation = ["L", "F"]
        if number > 1:
            ds.FrameIncrementPointer = 0x00182002
            ds.FrameTimeVector = ["0", "100"]

    return change


def _for_processing(ds: Dataset) -> None:
    ds.PresentationIntentType = "FOR PROCESSING"
    ds.SOPClassUID = {
        uids.DigitalXRayImageStorageForPresentation: uids.DigitalXRayImageStorageForProcessing,
        uids.DigitalMammographyXRayImageStorageForPresentation: uids.DigitalMammographyXRayImageStorageForProcessing,
        uids.DigitalIntraOralXRayImageStorageForPresentation: uids.DigitalIntraOralXRayImageStorageForProcessing,
    }[ds.SOPClassUID]
    for keyword in ("WindowCenter", "WindowWidth", "VOILUTFunction", "PresentationLUTShape"):
        ds.pop(keyword, None)


def _monochrome1(ds: Dataset) -> None:
    ds.PhotometricInterpretation = "MONOCHROME1"
    if "PresentationLUTShape" in ds:
        ds.PresentationLUTShape = "INVERSE"


def _as_cr(ds: Dataset) -> None:
    """A panoramic image in the other class that it may come in."""
    keep = {e.tag for e in KINDS["CR"]("x")}
    for tag in [tag for tag in ds if tag.tag not in keep and tag.tag.group not in (0x0028,)]:
        del ds[tag.tag]
    ds.SOPClassUID = uids.ComputedRadiographyImageStorage
    ds.ViewPosition = ""


_JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
_JAPANESE_KANA = "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"
_KOREAN = "Hong^Gildong=洪^吉洞=홍^길동"
_CHINESE = "Wang^XiaoDong=王^小东"
_LONG_COMPONENTS = "^".join(["Part"] * 100)


def _korean(text: str) -> bytes:
    """KS X 1001 in G1: announced at the start of every component (PS3.5 I.2)."""
    escape = b"\x1b$)C"
    first, *groups = text.split("=")
    coded = [b"^".join(escape + part.encode("euc_kr") for part in group.split("^")) for group in groups]
    return b"=".join([first.encode("ascii"), *coded])


_CHARACTER_SETS = {
    "Japanese, ISO 2022 IR 87": Oddity(
        _text(b"\\ISO 2022 IR 87", "iso2022_jp", _JAPANESE, "胸部 正面"),
        kept=_named(_JAPANESE, "胸部 正面"),
        character_set=("", "ISO 2022 IR 87"),
    ),
    "Japanese, ISO 2022 IR 13 and 87": Oddity(
        _bytes(  # the escape sequence back is that of JIS X 0201 here (PS3.5 H.3.2)
            SpecificCharacterSet=b"ISO 2022 IR 13\\ISO 2022 IR 87",
            PatientName="ﾔﾏﾀﾞ^ﾀﾛｳ=".encode("shift_jis")
            + "山田^太郎=やまだ^たろう".encode("iso2022_jp").replace(b"\x1b(B", b"\x1b(J"),
        ),
        kept={"PatientName": _JAPANESE_KANA},
    ),
    "Japanese half-width, ISO_IR 13": Oddity(
        _text(b"ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞ^ﾀﾛｳ", "ｷｮｳﾌﾞ"), kept=_named("ﾔﾏﾀﾞ^ﾀﾛｳ", "ｷｮｳﾌﾞ")
    ),
    "Korean, ISO 2022 IR 149": Oddity(
        _bytes(SpecificCharacterSet=b"\\ISO 2022 IR 149", PatientName=_korean(_KOREAN)), kept={"PatientName": _KOREAN}
    ),
    "Chinese, GB18030": Oddity(_text(b"GB18030", "gb18030", _CHINESE, "胸片"), kept=_named(_CHINESE, "胸片")),
    "Chinese, GB18030 with a backslash inside": Oddity(  # 朸 is 96 5C, 昞 is 95 5E: neither a delimiter
        _text(b"GB18030", "gb18030", "Wang^X=王^昞朸", "朸部"), kept=_named("Wang^X=王^昞朸", "朸部")
    ),
    "UTF-8": Oddity(
        _text(b"ISO_IR 192", "utf-8", "Wang^X=王^小东😀", "Röntgen жñ"), kept=_named("Wang^X=王^小东😀", "Röntgen жñ")
    ),
    "Latin-1": Oddity(
        _text(b"ISO_IR 100", "latin-1", "Buc^Jérôme", "Thorax, größer"), kept=_named("Buc^Jérôme", "Thorax, größer")
    ),
    "Latin-2": Oddity(
        _text(b"ISO_IR 101", "iso8859_2", "Wałęsa^Łukasz", "Płuca"), kept=_named("Wałęsa^Łukasz", "Płuca")
    ),
    "Cyrillic": Oddity(_text(b"ISO_IR 144", "iso8859_5", "Люкceмбypг", "Грудь"), kept=_named("Люкceмбypг", "Грудь")),
    "Greek": Oddity(_text(b"ISO_IR 126", "iso8859_7", "Διονυσιος", "Θώρακας"), kept=_named("Διονυσιος", "Θώρακας")),
    "Arabic": Oddity(_text(b"ISO_IR 127", "iso8859_6", "قباني^لنزار", "صدر"), kept=_named("قباني^لنزار", "صدر")),
    "Hebrew": Oddity(_text(b"ISO_IR 138", "iso8859_8", "שרון^דבורה", "חזה"), kept=_named("שרון^דבורה", "חזה")),
    "Thai": Oddity(_text(b"ISO_IR 166", "tis_620", "นามสกุล^ชื่อ", "ทรวงอก"), kept=_named("นามสกุล^ชื่อ", "ทรวงอก")),
    "a misspelt character set": Oddity(
        _text(b"ISO-IR 100", "latin-1", "Buc^Jérôme", "größer"),
        kept=_named("Buc^Jérôme", "größer"),
        character_set=("ISO_IR 100",),
    ),
    "Latin-1 that is not declared": Oddity(
        _bytes(PatientName="Buc^Jérôme".encode("latin-1"), StudyDescription="größer".encode("latin-1")),
        kept=_named("Buc^Jérôme", "größer"),
    ),
    "an unknown character set": Oddity(_bytes(SpecificCharacterSet=b"KLINGON 1"), refused=Reason.INVALID_ATTRIBUTES),
    "an empty character set": Oddity(_bytes(SpecificCharacterSet=b"")),
    "a character set that is no code": Oddity(
        _bytes(SpecificCharacterSet=b"utf-8; drop"), refused=Reason.INVALID_ATTRIBUTES
    ),
}

_VALUES = {
    "no patient and study attributes": Oddity(_without(*_PATIENT, *_STUDY)),
    "empty patient and study attributes": Oddity(_bytes(**dict.fromkeys((*_PATIENT, *_STUDY), b""))),
    "no patient name and ID": Oddity(_without("PatientName", "PatientID")),
    "no study date and time": Oddity(_without("StudyDate", "StudyTime")),
    "invalid sex": Oddity(_bytes(PatientSex=b"X"), kept={"PatientSex": ""}),
    "lower-case sex": Oddity(_bytes(PatientSex=b"f"), kept={"PatientSex": "F"}),
    "impossible dates": Oddity(
        _bytes(StudyDate=b"20251399", PatientBirthDate=b"19700230"), kept={"StudyDate": "", "PatientBirthDate": ""}
    ),
    "dates with dots, times with colons": Oddity(
        _bytes(StudyDate=b"1993.08.22", PatientBirthDate=b"1970.01.02", StudyTime=b"10:11:12"),
        kept={"StudyDate": "19930822", "PatientBirthDate": "19700102", "StudyTime": "101112"},
    ),
    "words for dates and times": Oddity(
        _bytes(StudyDate=b"yesterday", StudyTime=b"noon", PatientBirthDate=b"00000000"),
        kept={"StudyDate": "", "StudyTime": "", "PatientBirthDate": ""},
    ),
    "age 45": Oddity(_bytes(PatientAge=b"45"), kept={"PatientAge": ""}),
    "weight and size in words": Oddity(
        _bytes(PatientWeight=b"80 kg", PatientSize=b"1,80"), kept={"PatientWeight": "", "PatientSize": ""}
    ),
    "instance number garbage": Oddity(_bytes(InstanceNumber=b"7a", SeriesNumber=b"one")),
    "no instance and series number": Oddity(_without("InstanceNumber", "SeriesNumber")),
    "long values": Oddity(
        _bytes(
            PatientID=b"I" * 80,
            AccessionNumber=b"A" * 30,
            StudyID=b"S" * 20,
            PatientComments=b"c" * 10240,
            StudyDescription=b"d" * 64,
        )
    ),
    "too long a description": Oddity(_bytes(StudyDescription=b"d" * 90), kept={"StudyDescription": ""}),
    "a name of 100 components": Oddity(_bytes(PatientName=_LONG_COMPONENTS.encode())),
    "a name of 300 characters": Oddity(_bytes(PatientName=b"N" * 300, ReferringPhysicianName=b"R" * 200)),
    "backslashes in identity": Oddity(_bytes(PatientID=b"A\\B", AccessionNumber=b"1\\2", PatientName=b"Doe\\Roe")),
    "blanks around identity": Oddity(_bytes(PatientID=b"  ID-1 ", AccessionNumber=b" 7", PatientName=b" Doe^Jane ")),
    "control characters in identity": Oddity(_bytes(PatientID=b"ID\t1", StudyID=b"S\r\n1")),
    "identity in sequences": Oddity(_identity_in_sequences),
    "private attributes": Oddity(_private),
    "no orientation, body part and side": Oddity(
        _without("PatientOrientation", "BodyPartExamined", "Laterality", "ImageLaterality")
    ),
    "body part in lower case": Oddity(_bytes(BodyPartExamined=b"chest")),
    "body part in words": Oddity(_bytes(BodyPartExamined=b"Th\xf6rax, p.a. standing up")),
    "invalid orientation and side": Oddity(
        _bytes(PatientOrientation=b"LEFT\\UP", Laterality=b"LEFT", ImageLaterality=b"BOTH")
    ),
    "orientation of one value": Oddity(_bytes(PatientOrientation=b"L")),
    "an unpaired part": Oddity(_all(_with(BodyPartExamined="LIVER"), _without("ImageLaterality"))),
    "a paired part without a side": Oddity(_all(_with(BodyPartExamined="KNEE"), _without("ImageLaterality"))),
    "both sides": Oddity(_bytes(ImageLaterality=b"B"), kinds=DIGITAL),
    "Laterality B": Oddity(_bytes(Laterality=b"B"), kinds=("CR", "SC")),
    "left hand": Oddity(_all(_with(BodyPartExamined="HAND", Laterality="L"), _without("ImageLaterality"))),
    "offset from UTC": Oddity(_with(TimezoneOffsetFromUTC="+0545")),
    "invalid offset from UTC": Oddity(_bytes(TimezoneOffsetFromUTC=b"CET"), kept={"TimezoneOffsetFromUTC": ""}),
    "a UID with leading zeros": Oddity(
        lambda ds: put(ds, SOPInstanceUID=f"1.2.003.{uid(ds.SOPInstanceUID)[5:25]}".encode())
    ),
    "a study UID with leading zeros": Oddity(
        lambda ds: put(ds, StudyInstanceUID=f"1.2.003.{uid(ds.StudyInstanceUID)[5:25]}".encode())
    ),
    "UIDs of 64 characters": Oddity(
        lambda ds: put(
            ds,
            **{
                keyword: (f"1.2.3.{uid(ds[keyword].value, 'x')[5:]}{uid(ds[keyword].value)[5:]}"[:63] + "9").encode()
                for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
            },
        )
    ),
    "burned-in annotation": Oddity(_with(BurnedInAnnotation="YES")),
    "clinical trial and de-identified": Oddity(
        _with(
            ClinicalTrialSponsorName="Sponsor",
            ClinicalTrialProtocolID="P1",
            ClinicalTrialProtocolName="",
            ClinicalTrialSiteID="",
            ClinicalTrialSiteName="",
            ClinicalTrialSubjectID="S1",
            PatientIdentityRemoved="YES",
            DeidentificationMethod="Basic Profile",
        )
    ),
}

_PIXELS = {
    "landscape": Oddity(shape=(80, 120)),
    "portrait": Oddity(shape=(160, 64)),
    "very wide": Oddity(shape=(40, 900)),
    "very high": Oddity(shape=(900, 40)),
    "tiny": Oddity(shape=(32, 32)),
    "odd number of rows and columns": Oddity(shape=(97, 83), bits=(8, 8)),
    "5000 x 4000": Oddity(shape=(5000, 4000)),
    "MONOCHROME1": Oddity(_monochrome1),
    "pixels twice as high": Oddity(
        _all(_without("ImagerPixelSpacing", "PixelSpacing"), _bytes(PixelAspectRatio=b"2\\1")), kinds=("CR", "SC")
    ),
    "spacing not square": Oddity(_bytes(ImagerPixelSpacing=b"0.1\\0.2"), kinds=("CR", *DIGITAL)),
    "calibrated spacing": Oddity(_bytes(PixelSpacing=b"0.143\\0.143", ImagerPixelSpacing=b"0.15\\0.15")),
    "invalid spacing": Oddity(_bytes(ImagerPixelSpacing=b"0\\0", PixelSpacing=b"x")),
    "8 bits": Oddity(bits=(8, 8)),
    "10 of 16 bits": Oddity(bits=(16, 10)),
    "16 bits": Oddity(bits=(16, 16)),
    "signed": Oddity(signed=True, kinds=("CR", "SC")),
    "many windows": Oddity(
        _with(WindowCenter=["2048", "1000"], WindowWidth=["4096", "500"], WindowCenterWidthExplanation=["A", "B"])
    ),
    "an invalid window": Oddity(_bytes(WindowCenter=b"x", WindowWidth=b"0")),
    "VOI LUTs": Oddity(_voi_luts, kinds=("CR", *DIGITAL)),
    "sigmoid window": Oddity(_with(VOILUTFunction="SIGMOID"), kinds=DIGITAL),
    "modality LUT": Oddity(_modality_lut, kinds=("CR", "SC")),
    "rescaled": Oddity(_with(RescaleSlope="0.5", RescaleIntercept="-100", RescaleType="US"), kinds=("CR", "SC")),
    "padding": Oddity(_with(PixelPaddingValue=0)),
    "for processing": Oddity(_for_processing, kinds=("DX", "IO", "MG")),
    "panoramic as CR": Oddity(_as_cr, kinds=("PX",)),
    "one frame of a byte multi-frame class": Oddity(
        _frames(1, uids.MultiFrameGrayscaleByteSecondaryCaptureImageStorage), kinds=("SC",), bits=(8, 8)
    ),
    "one frame of a word multi-frame class": Oddity(
        _frames(1, uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage), kinds=("SC",)
    ),
    "two frames": Oddity(
        _frames(2, uids.MultiFrameGrayscaleWordSecondaryCaptureImageStorage), kinds=("SC",), refused=Reason.MULTI_FRAME
    ),
    "colour": Oddity(
        _with(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0),
        bits=(8, 8),
        refused=Reason.UNSUPPORTED_PHOTOMETRIC_INTERPRETATION,
    ),
    "implicit VR": Oddity(syntax=uids.ImplicitVRLittleEndian),
    "big endian": Oddity(syntax=uids.ExplicitVRBigEndian),
    "deflated": Oddity(syntax=uids.DeflatedExplicitVRLittleEndian),
    "JPEG baseline": Oddity(_lossy("12.5", "ISO_10918_1"), bits=(8, 8), syntax=uids.JPEGBaseline8Bit),
    "JPEG 2000, lossy twice": Oddity(
        _with(
            LossyImageCompression="01",
            LossyImageCompressionRatio=["4.5", "10"],
            LossyImageCompressionMethod=["ISO_10918_1", "ISO_15444_1"],
        ),
        syntax=uids.JPEG2000,
    ),
    "JPEG-LS": Oddity(syntax=uids.JPEGLSLossless),
    "lossy once, without a ratio": Oddity(_with(LossyImageCompression="01")),
}

_NOTHING_ATTENDED = {"attention_status": "degenerate", "attention_map": np.zeros((8, 8), np.float32)}
_EARLIER = ResultReference("1.2.3.4", "1.2.3.5", uids.Comprehensive3DSRStorage, "1.2.3.6")
_RESULTS = {
    "the fallback report": Oddity(output={"sr": "comprehensive"}),
    "reprocessed": Oddity(predecessors=(_EARLIER,)),
    "nothing attended": Oddity(found=_NOTHING_ATTENDED, absent=("region",)),
    "everything attended": Oddity(found={"attention_map": np.ones((7, 7), np.float32)}),
    "two regions attended": Oddity(found={"attention_map": np.eye(8, dtype=np.float32)[[0, 1, 2, 7, 7, 7, 7, 0]]}),
    # Without a false-alarm rate nothing passes, and the checker holds it against a report that says so.
    "no number": Oddity(found={"alpha": float("nan"), "score": float("inf")}, verdicts=("FAIL", "REJECT")),
    "notes": Oddity(found={"notes": ("BodyPartExamined says HAND, but the image looks like chest", "größer \\ жñ 😀")}),
    "an institution with an umlaut": Oddity(output={"institution_name": "Klinikum Köln", "manufacturer": "Müller"}),
}

ODDITIES: Mapping[str, Oddity] = MappingProxyType(
    {"plain": Oddity(), **_VALUES, **_CHARACTER_SETS, **_PIXELS, **_RESULTS}
)
