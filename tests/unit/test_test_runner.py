"""deploy/test counts what pytest reports, and a skip that nobody explained is a failure."""

from deploy.lib.testing import Result, read_report, summary, unexplained

REPORT = """\
<testsuites><testsuite>
<testcase classname="tests.a" name="passes"/>
<testcase classname="tests.a" name="fails"><failure message="no"/></testcase>
<testcase classname="tests.a" name="breaks"><error message="no"/></testcase>
<testcase classname="tests.a" name="skips"><skipped message="no KVM here"/></testcase>
</testsuite></testsuites>
"""


def test_a_report_is_counted_by_case(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    result = read_report("unit", report)
    assert (result.passed, result.failed) == (1, 2)
    assert result.skips == [("tests.a.skips", "no KVM here")]


def test_a_run_without_a_report_has_failed(tmp_path):
    assert read_report("unit", tmp_path / "absent.xml").failed == 1


def test_a_skip_needs_its_reason_on_the_list():
    skips = [("a", "no KVM here"), ("b", "did not feel like it")]
    assert unexplained(skips, "# comment\nno KVM\n") == [("b", "did not feel like it")]


def test_the_last_line_is_the_total_and_an_unexplained_skip_counts_as_a_failure():
    results = [Result("unit", passed=3), Result("lab", passed=2, skips=[("t", "tired")])]
    lines, well = summary(results, "")
    assert lines[-1] == "5 passed, 1 failed, 1 skipped"
    assert not well
    lines, well = summary(results, "tired")
    assert lines[-1] == "5 passed, 0 failed, 1 skipped"
    assert well
