"""BibTeX of the sources, printed by the report for what it ran."""

DLG = """@inproceedings{zhu2019deep,
  title = {Deep Leakage from Gradients},
  author = {Zhu, Ligeng and Liu, Zhijian and Han, Song},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019},
  note = {arXiv:1906.08935}
}"""

IDLG = """@article{zhao2020idlg,
  title = {{iDLG}: Improved Deep Leakage from Gradients},
  author = {Zhao, Bo and Mopuri, Konda Reddy and Bilen, Hakan},
  journal = {arXiv:2001.02610},
  year = {2020}
}"""

INVERTING = """@inproceedings{geiping2020inverting,
  title = {Inverting Gradients -- How easy is it to break privacy in federated learning?},
  author = {Geiping, Jonas and Bauermeister, Hartmut and Dr{\\"o}ge, Hannah and Moeller, Michael},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2020},
  note = {arXiv:2003.14053}
}"""

GRAD_INVERSION = """@inproceedings{yin2021see,
  title = {See through Gradients: Image Batch Recovery via {GradInversion}},
  author = {Yin, Hongxu and Mallya, Arun and Vahdat, Arash and Alvarez, Jose M. and Kautz, Jan and Molchanov, Pavlo},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2021},
  note = {arXiv:2104.07586}
}"""

PHONG = """@inproceedings{phong2017privacy,
  title = {Privacy-Preserving Deep Learning: Revisited and Enhanced},
  author = {Phong, Le Trieu and Aono, Yoshinori and Hayashi, Takuya and Wang, Lihua and Moriai, Shiho},
  booktitle = {Applications and Techniques in Information Security},
  year = {2017}
}"""

ILRG = """@article{ma2023instance,
  title = {Instance-wise Batch Label Restoration via Gradients in Federated Learning},
  author = {Ma, Kailang and Sun, Yu and Cui, Jian and Li, Dawei and Guan, Zhenyu and Liu, Jianwei},
  journal = {International Conference on Learning Representations},
  year = {2023}
}"""

SPEECH_RECONSTRUCTION = """@article{dang2021method,
  title = {A Method to Reveal Speaker Identity in Distributed {ASR} Training, and How to Counter It},
  author = {Dang, Trung and Thakkar, Om and Ramaswamy, Swaroop and Mathews, Rajiv and Chin, Peter and
            Beaufays, Fran{\\c{c}}oise},
  journal = {arXiv:2104.07815},
  year = {2021}
}"""

GE2E = """@inproceedings{wan2018generalized,
  title = {Generalized End-to-End Loss for Speaker Verification},
  author = {Wan, Li and Wang, Quan and Papir, Alan and Moreno, Ignacio Lopez},
  booktitle = {IEEE International Conference on Acoustics, Speech and Signal Processing},
  year = {2018},
  note = {arXiv:1710.10467}
}"""

DEEP_SPEAKER = """@article{li2017deep,
  title = {Deep Speaker: an End-to-End Neural Speaker Embedding System},
  author = {Li, Chao and Ma, Xiaokong and Jiang, Bing and Li, Xiangang and Zhang, Xuewei and Liu, Xiao and Cao, Ying and
            Kannan, Ajay and Zhu, Zhenyao},
  journal = {arXiv:1705.02304},
  year = {2017}
}"""

APRIL = """@inproceedings{lu2022april,
  title = {{APRIL}: Finding the Achilles' Heel on Privacy for Vision Transformers},
  author = {Lu, Jiahao and Zhang, Xi Sheryl and Zhao, Tianli and He, Xiangyu and Cheng, Jian},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
  note = {arXiv:2112.14087}
}"""

DAGER = """@inproceedings{petrov2024dager,
  title = {{DAGER}: Exact Gradient Inversion for Large Language Models},
  author = {Petrov, Ivo and Dimitrov, Dimitar I. and Baader, Maximilian and M{\\"u}ller, Mark Niklas
            and Vechev, Martin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2405.15586}
}"""

MELIS = """@inproceedings{melis2019exploiting,
  title = {Exploiting Unintended Feature Leakage in Collaborative Learning},
  author = {Melis, Luca and Song, Congzheng and De Cristofaro, Emiliano and Shmatikov, Vitaly},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2019},
  note = {arXiv:1805.04049}
}"""

SPEAR = """@inproceedings{dimitrov2024spear,
  title = {{SPEAR}: Exact Gradient Inversion of Batches in Federated Learning},
  author = {Dimitrov, Dimitar I. and Baader, Maximilian and M{\\"u}ller, Mark Niklas and Vechev, Martin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2024},
  note = {arXiv:2403.03945}
}"""

RGAP = """@inproceedings{zhu2021rgap,
  title = {{R-GAP}: Recursive Gradient Attack on Privacy},
  author = {Zhu, Junyi and Blaschko, Matthew B.},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  note = {arXiv:2010.07733}
}"""

RLG = """@inproceedings{dang2021revealing,
  title = {Revealing and Protecting Labels in Distributed Training},
  author = {Dang, Trung and Thakkar, Om and Ramaswamy, Swaroop and Mathews, Rajiv and Chin, Peter and
            Beaufays, Fran{\\c{c}}oise},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  note = {arXiv:2111.00556}
}"""

EMOTION = """@article{feng2021attribute,
  title = {Attribute Inference Attack of Speech Emotion Recognition in Federated Learning Settings},
  author = {Feng, Tiantian and Hashemi, Hanieh and Hebbar, Rajat and Annavaram, Murali and Narayanan, Shrikanth},
  journal = {arXiv:2112.13416},
  year = {2021}
}"""

LIKELIHOOD_RATIO = """@inproceedings{carlini2022membership,
  title = {Membership Inference Attacks From First Principles},
  author = {Carlini, Nicholas and Chien, Steve and Nasr, Milad and Song, Shuang and Terzis, Andreas and
    Tram\\`er, Florian},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2022},
  note = {arXiv:2112.03570}
}"""

INFORMED = """@inproceedings{balle2022reconstructing,
  title = {Reconstructing Training Data with Informed Adversaries},
  author = {Balle, Borja and Cherubin, Giovanni and Hayes, Jamie},
  booktitle = {IEEE Symposium on Security and Privacy},
  year = {2022},
  note = {arXiv:2201.04845}
}"""
