from pathlib import Path
from groundup.compare.report import write_report
def test_x(search_folder: Path, tmp_path: Path):
    import shutil
    out=Path("/tmp/w/rep2"); shutil.rmtree(out,ignore_errors=True); out.mkdir()
    shutil.copytree(search_folder,out/"search")
    d,p,m=write_report([out/"search"],out/"report.html")
    print(m.read_text()[-1500:])
